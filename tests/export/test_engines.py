"""TensorRT: engines are really built, where TensorRT for RTX is installed; and half-precision files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lfpose_edge.export.engines import build_engine
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.half import to_half
from lfpose_edge.export.quantize import quantise, quantised_tensors
from lfpose_edge.export.ranges import Calibration
from nets import blob_network

from lfpose_edge.backends.engine_files import read_engine
from lfpose_edge.backends.tensorrt_api import BuildOptions, TensorRt, unavailable
from lfpose_edge.errors import BackendUnavailable, BundleError

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


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


def _fixed_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """TensorRT wants all of a crop's shape but the batch."""
    for axis, size in ((2, 64), (3, 48)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    return model


@rtx
@pytest.mark.parametrize("gpu", ["SM80", "SM86", "SM89", "SM120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_are_built_for_gpus_that_are_not_here(gpu: str, precision: str) -> None:
    model = _fixed_size(blob_network())
    if precision == "int8":
        graph = Graph(model)
        ranges = {name: (0.0, 6.0) for name in quantised_tensors(graph)}
        model = quantise(model, Calibration("minmax", 1, "", ranges), "trt")
    if precision == "fp16":
        model = to_half(model)
    phases: set[str] = set()
    plan = TensorRt.load("tensorrt_rtx").build(
        model.SerializeToString(),
        BuildOptions(compute_capability=gpu),
        lambda phase, done, steps: phases.add(phase),
    )
    assert len(plan) > 10_000
    assert phases


@rtx
def test_the_cpu_style_is_refused_and_the_node_is_named() -> None:
    model = _fixed_size(blob_network())
    ranges = {name: (-1.0, 6.0) for name in quantised_tensors(Graph(model))}
    quantised = quantise(model, Calibration("minmax", 1, "", ranges), "cpu")
    with pytest.raises(BundleError, match=r"at node 'crops/q' \(QuantizeLinear\)"):
        TensorRt.load("tensorrt_rtx").build(
            quantised.SerializeToString(), BuildOptions(compute_capability="SM86")
        )


@rtx
def test_an_unknown_gpu_is_named_with_those_that_can_be_had() -> None:
    model = _fixed_size(blob_network()).SerializeToString()
    with pytest.raises(BackendUnavailable, match="cannot build for SM87; it builds for .*SM86"):
        TensorRt.load("tensorrt_rtx").build(model, BuildOptions(compute_capability="SM87"))


@rtx
def test_the_engine_of_the_shipped_model_lies_in_its_bundle_with_its_facts(tmp_path: Path) -> None:
    import shutil

    from lfpose_edge.backends.engine_files import Fingerprint
    from lfpose_edge.bundle import Bundle
    from lfpose_edge.zoo import bundle_path

    shutil.copytree(bundle_path("lfpose-lite"), tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    options = BuildOptions(compute_capability="SM86")
    path = build_engine(bundle, "tensorrt_rtx", "fp16", options)
    assert path.parent == tmp_path / "b" / "engines"
    fingerprint = Fingerprint(
        bundle.manifest.files["model.onnx"].sha256,
        "tensorrt_rtx",
        TensorRt.load("tensorrt_rtx").trt.__version__,
        "SM86",
        "fp16",
        options.batches,
    )
    assert len(read_engine(path, fingerprint)) > 1e6
    assert Bundle.open(tmp_path / "b").manifest == bundle.manifest  # engines are no part of the model


def test_a_tensorrt_that_is_not_installed_says_how_to_get_it() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    assert "JetPack brings it" in (unavailable("tensorrt") or "")
    with pytest.raises(BackendUnavailable, match="tensorrt cannot be imported"):
        TensorRt.load("tensorrt")
