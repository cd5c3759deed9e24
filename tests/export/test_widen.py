"""Smoothing in whole blocks of channels: the same maps, for any number of joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from lfpose_edge.export import export_bundle
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.widen import widen_smoothing
from nets import write_blob_bundle

pytest.importorskip("onnxruntime")


def _smoothed(joints: int, filters: int = 2, head: str | None = "Conv") -> onnx.ModelProto:
    """A head over 8 channels, and depthwise filters behind it."""
    rng = np.random.default_rng(joints)
    arrays = {"head.weight": rng.normal(size=(joints, 8, 1, 1)), "head.bias": rng.normal(size=joints)}
    make = onnx.helper.make_node
    nodes = [make("Conv", ["crops", "head.weight", "head.bias"], ["map0"], name="head")]
    if head == "Sigmoid":
        nodes = [make("Sigmoid", ["crops"], ["map0"], name="head")]
    for i in range(filters):
        arrays |= {f"{i}.weight": rng.normal(size=(joints, 1, 1, 3)), f"{i}.bias": rng.normal(size=joints)}
        where = {"pads": [0, 1, 0, 1], "group": joints, "name": f"filter{i}"}
        nodes.append(make("Conv", [f"map{i}", f"{i}.weight", f"{i}.bias"], [f"map{i + 1}"], **where))
    if head is None:
        nodes = nodes[1:]
        nodes[0].input[0] = "crops"
    nodes[-1].output[0] = "cams"
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "smoothed",
        [info("crops", kind, ["n", 8, 6, 7])],
        [info("cams", kind, ["n", joints, 6, 7])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def _run(model: onnx.ModelProto, channels: int) -> np.ndarray:
    import onnxruntime

    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    crops = np.random.default_rng(0).normal(size=(2, channels, 6, 7)).astype(np.float32)
    return session.run(["cams"], {"crops": crops})[0]


@pytest.mark.parametrize(("joints", "wide"), [(14, 16), (17, 32), (3, 16)])
@pytest.mark.parametrize("filters", [1, 2])
def test_the_maps_are_the_same_in_whole_blocks(joints: int, wide: int, filters: int) -> None:
    model = _smoothed(joints, filters)
    widened = widen_smoothing(model)
    np.testing.assert_allclose(_run(widened, 8), _run(model, 8), atol=1e-5)
    graph = Graph(widened)
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    assert {len(graph.constants[node.input[1]]) for node in convolutions} == {wide}
    assert graph.nodes[-1].op_type == "Slice"
    assert widen_smoothing(widened) is widened  # once is enough


@pytest.mark.parametrize(
    ("joints", "filters", "head"),
    [(16, 2, "Conv"), (14, 0, "Conv"), (8, 2, "Sigmoid"), (8, 2, None)],
    ids=["whole blocks", "no filter", "nothing that could make more maps", "no head"],
)
def test_where_there_is_nothing_to_do_nothing_is_done(joints: int, filters: int, head: str | None) -> None:
    model = _smoothed(joints, filters, head)
    assert widen_smoothing(model) is model


def test_a_map_that_others_read_stays_as_it_is() -> None:
    model = _smoothed(14)
    model.graph.output.append(onnx.helper.make_tensor_value_info("map1", onnx.TensorProto.FLOAT, None))
    assert widen_smoothing(model) is model


def test_a_bundle_without_filters_is_exported_as_it_was(tmp_path: Path) -> None:
    source = write_blob_bundle(tmp_path / "blob")
    export_bundle(source, tmp_path / "again")
    graphs = [onnx.load(folder / "model.onnx").graph for folder in (source, tmp_path / "again")]
    before, after = ([node.name for node in graph.node] for graph in graphs)
    assert after == before
