"""Half-precision files, for engines that take their types from the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.half import to_half
from nets import blob_network


def test_a_half_precision_file_computes_the_same() -> None:
    half = to_half(blob_network())
    onnx.checker.check_model(half)
    graph = Graph(half)
    assert graph.constants["stem.weight"].dtype == np.float16
    assert graph.constants["twice"].dtype == np.float32  # the scales of a Resize
    crops = np.random.default_rng(0).uniform(0, 3, (2, 3, 64, 48)).astype(np.float32)
    ours, theirs = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ("cams", "presence"), {"crops": crops}
        )
        for model in (half, blob_network())
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.05, rtol=0.01)
