"""TensorRT: engines are really built, where TensorRT for RTX is installed, and proven."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from lfpose_edge.export import build, engines, export_bundle, on_gpu
from lfpose_edge.export.build import Engines, Int8
from lfpose_edge.export.engines import build_engine
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.half import to_half
from lfpose_edge.export.quantize import quantise, quantised_tensors
from lfpose_edge.export.ranges import Calibration
from nets import blob_network, write_blob_bundle

from lfpose_edge.backends.engine_files import Fingerprint, read_engine
from lfpose_edge.backends.tensorrt_api import BuildOptions, Engine, TensorRt, unavailable
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import AccuracyGateError, BackendUnavailable, BundleError, EngineMismatch
from lfpose_edge.zoo import bundle_path

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


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
def test_an_operator_that_tensorrt_lacks_is_named_with_its_node() -> None:
    model = _fixed_size(blob_network())
    squares = onnx.numpy_helper.from_array(np.ones((3, 4, 4), np.float32), "squares")
    model.graph.initializer.append(squares)
    model.graph.node.append(onnx.helper.make_node("Det", ["squares"], ["odd"], name="volume"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("odd", onnx.TensorProto.FLOAT, [3]))
    with pytest.raises(BundleError, match=r"at node 'volume' \(Det\)"):
        TensorRt.load("tensorrt_rtx").build(
            model.SerializeToString(), BuildOptions(compute_capability="SM86")
        )


@rtx
def test_an_unknown_gpu_is_named_with_those_that_can_be_had() -> None:
    model = _fixed_size(blob_network()).SerializeToString()
    with pytest.raises(BackendUnavailable, match="cannot build for SM87; it builds for .*SM86"):
        TensorRt.load("tensorrt_rtx").build(model, BuildOptions(compute_capability="SM87"))


@rtx
@pytest.mark.parametrize("name", ["CURRENT", "NONE"])
def test_words_of_tensorrts_own_are_no_gpu(name: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"cannot build for {name}; it builds for .*SM86"):
        TensorRt.load("tensorrt_rtx").require_target(name)


@rtx
@pytest.mark.parametrize("phase_of_interest", ["first", "last"])
def test_what_is_raised_while_it_builds_ends_the_build(phase_of_interest: str) -> None:
    """Ctrl-C among it, which TensorRT's bindings drop: the build went on, or ended with another error."""
    model = _fixed_size(blob_network()).SerializeToString()
    options = BuildOptions(compute_capability="SM86")
    told: list[tuple[str, int, int]] = []
    TensorRt.load("tensorrt_rtx").build(model, options, lambda *step: told.append(step))
    at = told[0] if phase_of_interest == "first" else told[-1]

    def interrupted(*step: object) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TensorRt.load("tensorrt_rtx").build(model, options, interrupted)
    assert TensorRt.load("tensorrt_rtx").build(model, options)  # the next one is not ended by it


@rtx
def test_the_engine_of_the_shipped_model_lies_in_its_bundle_with_its_facts(tmp_path: Path) -> None:
    shutil.copytree(bundle_path("lfpose-lite"), tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    options = BuildOptions(compute_capability="SM86")
    built = build_engine(bundle, "tensorrt_rtx", "fp16", options)
    path = built.path
    assert built.infer is None or built.label.endswith("SM86")
    assert path.parent == tmp_path / "b" / "engines"
    fingerprint = Fingerprint(
        bundle.manifest.files["model.onnx"].sha256,
        "tensorrt_rtx",
        TensorRt.load("tensorrt_rtx").trt.__version__,
        "SM86",
        "fp16",
        options.batches,
        bundle.manifest.input.size,
    )
    assert len(read_engine(path, fingerprint)) > 1e6
    assert Bundle.open(tmp_path / "b").manifest == bundle.manifest  # engines are no part of the model


@rtx
def test_the_int8_engine_of_the_shipped_model_multiplies_integers(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_path("lfpose-lite"), tmp_path / "b"))
    plan = build_engine(
        bundle, "tensorrt_rtx", "int8", BuildOptions(compute_capability="SM86")
    ).path.read_bytes()
    constants = Graph(onnx.load(bundle.model_file("int8-trt"))).constants
    layers = 0
    for name, weights in constants.items():
        if weights.dtype != np.int8 or weights.ndim != 4 or weights.shape[1] < 16:
            continue  # scales' zero points; and depthwise weights, whose layout the engine changes
        layers += 1
        row = weights[0, :16, 0, 0]
        scale = constants[name.replace("/quantised", "/scale")][0]
        assert row.tobytes() in plan, f"{name} is not in the engine as int8"
        for kind in (np.float16, np.float32):
            assert (row * scale).astype(kind).tobytes() not in plan, f"{name} became {kind.__name__}"
    assert layers > 40
    # Where a kernel ends by rounding to int8, the next convolution reads int8.
    assert len(set(re.findall(rb"void (__myl_\w+RounCast\w*)\(", plan))) > layers / 2


class Fake:
    """A TensorRT whose engines are ONNX files, run on the CPU, and change what comes out."""

    __name__, __version__ = "tensorrt", "11.9.0"

    def __init__(self) -> None:
        self.changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self.most = 16  # crops at once

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

    def Runtime(self, log: object) -> Fake:  # noqa: N802  (TensorRT's name)
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Fake | None:
        self.plan = plan
        return self if plan.startswith(b"\x08") else None

    device_memory_size_v2, float32 = 100, "float32"

    def create_execution_context(self) -> Fake:
        self.addresses: dict[str, int] = {}
        return self

    def get_tensor_dtype(self, name: str) -> str:
        return self.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name == "crops":
            return self.shape
        session = onnxruntime.InferenceSession(self.plan, providers=["CPUExecutionProvider"])
        found = session.run((name,), {"crops": np.zeros(self.shape, np.float32)})[0]
        return tuple(found.shape)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "crops" and shape[0] <= self.most

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        crops = np.empty(self.shape, np.float32)
        ctypes.memmove(crops.ctypes.data, self.addresses["crops"], crops.nbytes)
        names = ("cams", "presence")
        session = onnxruntime.InferenceSession(self.plan, providers=["CPUExecutionProvider"])
        for name, values in zip(names, session.run(names, {"crops": crops}), strict=True):
            change = self.changes.get(name, np.copy)
            changed = np.ascontiguousarray(change(values), np.float32)
            ctypes.memmove(self.addresses[name], changed.ctypes.data, changed.nbytes)
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Stands for TensorRT and its GPU; the adapter's calls are checked against real bindings elsewhere."""
    trt = Fake()
    tensorrt = TensorRt(trt)
    monkeypatch.setattr(tensorrt, "build", lambda plan, options, steps: plan)
    monkeypatch.setattr(TensorRt, "load", lambda flavour: tensorrt)
    monkeypatch.setattr(
        engines, "gpu_here", lambda: SimpleNamespace(label="Fake GPU", name="Fake GPU", capability=(8, 6))
    )
    monkeypatch.setattr(on_gpu, "DEVICE", "cpu")
    return trt


def test_engines_of_the_gpu_that_is_here_are_judged_in_the_report(
    fake: Fake, frames: Path, tmp_path: Path
) -> None:
    source = write_blob_bundle(tmp_path / "blob")
    int8 = Int8(str(frames), tmp_path)
    export_bundle(source, tmp_path / "b", int8=int8, max_drop=100.0, engines=Engines("tensorrt"))
    report = json.loads((tmp_path / "b/report.json").read_text(encoding="utf-8"))
    labels = [f"tensorrt 11.9.0 {precision} Fake GPU" for precision in ("fp16", "int8")]
    assert [(e["engine"], e["ran"]) for e in report["engines"]] == [(label, True) for label in labels]
    rows = {row["precision"]: row for row in report["precisions"]}
    assert rows[labels[1]]["pck_points"] == rows["int8-trt"]["pck_points"]
    assert report["parity_pixels"][f"fp32 to {labels[0]}"]["p95"] < 0.5
    assert [row["engine"] for row in report["engine_latency"]] == labels
    assert f"times as fast as {labels[0]}" in (tmp_path / "b/report.md").read_text(encoding="utf-8")
    assert f"{labels[1]}`" not in (tmp_path / "b/report.md").read_text(encoding="utf-8")
    assert f"- {labels[1]}: `engines/" in (tmp_path / "b/report.md").read_text(encoding="utf-8")


CHANGES = {
    "raised": lambda values: values + 3 * values.std(),
    "the same everywhere": lambda values: np.full_like(values, -10),
    "mirrored": lambda values: values[..., ::-1],
    "joints mixed up": lambda values: np.roll(values, 1, axis=1),
    "not a number": lambda values: values * np.nan,
}


@pytest.mark.parametrize(
    ("output", "change"),
    [
        *(("cams", change) for change in CHANGES),
        ("presence", "the same everywhere"),
        ("presence", "not a number"),
    ],
)
def test_an_engine_that_computes_something_else_is_not_published(
    change: str, output: str, fake: Fake, tmp_path: Path
) -> None:
    fake.changes = {output: CHANGES[change]}
    source = write_blob_bundle(tmp_path / "blob")
    with pytest.raises(AccuracyGateError, match=r"tensorrt 11\.9\.0 fp16 Fake GPU differs"):
        export_bundle(source, tmp_path / "b", engines=Engines("tensorrt"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("output", "change"), [("cams", "mirrored"), ("presence", "the same everywhere")])
def test_an_engine_that_loses_more_than_it_may_is_not_published(
    output: str, change: str, fake: Fake, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.changes = {output: CHANGES[change]}
    monkeypatch.setattr(engines, "require_parity", lambda *_: None)  # which would have refused it before
    source = write_blob_bundle(tmp_path / "blob")
    int8 = Int8(str(frames), tmp_path)
    with pytest.raises(AccuracyGateError, match=r"\(tensorrt.*\) loses .* more than --max-drop 5"):
        export_bundle(source, tmp_path / "b", int8=int8, max_drop=5, engines=Engines("tensorrt"))
    assert not (tmp_path / "b").exists()


def _too_large_for_half_precision(path: Path) -> Path:
    """The blob network, computing the same over numbers that float16 does not have."""
    graph = Graph(blob_network())
    graph.constants["mix.weight"] = graph.constants["mix.weight"] * np.float32(1e5)
    first, second = np.split(graph.constants["head.weight"], 2, axis=1)
    graph.constants["head.weight"] = np.concatenate([first, second / np.float32(1e5)], axis=1)
    onnx.save(graph.to_model(), path)
    return path


def test_an_fp16_engine_that_cannot_run_here_is_proven_in_onnx_runtime(
    fake: Fake,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(engines, "has_gpu", lambda _: False)
    source = write_blob_bundle(tmp_path / "blob")
    int8 = Int8(str(frames), tmp_path)
    export_bundle(source, tmp_path / "b", int8=int8, max_drop=100.0, engines=Engines("tensorrt"))
    report = json.loads((tmp_path / "b/report.json").read_text(encoding="utf-8"))
    files = {row["precision"]: row["file"] for row in report["precisions"]}
    assert files["fp16, ONNX Runtime"].endswith(".engine")
    assert [entry["ran"] for entry in report["engines"]] == [False, False]
    assert "tensorrt 11.9.0 int8 Fake GPU was not run: torch finds no GPU here" in caplog.text
    large = _too_large_for_half_precision(tmp_path / "large.onnx")
    with pytest.raises(AccuracyGateError, match=r"tensorrt 11\.9\.0 fp16 Fake GPU, in ONNX Runtime, differs"):
        export_bundle(large, tmp_path / "c", like=str(source), engines=Engines("tensorrt"))
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_built_is_refused_before_the_long_work(
    fake: Fake, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        pytest.fail("calibrated before it was refused")

    monkeypatch.setattr(build, "load_calibration_set", too_late)
    source = write_blob_bundle(tmp_path / "blob")
    int8 = Int8(str(frames), tmp_path)

    def refused(words: str, wanted: Engines, kind: type[Exception] = BackendUnavailable) -> None:
        with pytest.raises(kind, match=words):
            export_bundle(source, tmp_path / "b", int8=int8, engines=wanted)

    refused("cannot build for SM86; it builds for the GPU that is here", Engines("tensorrt", gpus=("SM86",)))
    refused("nothing for a Jetson's DLA", Engines("tensorrt", options=BuildOptions(dla_core=0)))
    monkeypatch.setattr(engines.torch_engines, "unavailable", lambda: None)
    refused("export a checkpoint", Engines("torch_tensorrt"), BundleError)
    monkeypatch.undo()
    monkeypatch.setattr(build, "load_calibration_set", too_late)
    monkeypatch.setattr(TensorRt, "load", lambda flavour: TensorRt(fake))
    with monkeypatch.context() as here:
        here.setattr(engines, "gpu_here", lambda: engines.Gpu("An H100", (9, 0), 132))
        refused("and An H100 is of 9.0: use TensorRT", Engines("tensorrt_rtx"))
    monkeypatch.setitem(sys.modules, "lfpose_edge._cuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    refused("pip install pycuda; or with tensorrt-rtx name a GPU", Engines("tensorrt"))


def test_for_a_jetsons_dla_one_engine_of_one_crop_in_half_precision_is_built(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake.__version__ = "10.3.0"
    tensorrt = TensorRt(fake)
    asked: list[BuildOptions] = []

    def build_one(plan: bytes, options: BuildOptions, steps: object) -> bytes:
        asked.append(options)
        fake.most = options.batches[2]
        return plan

    monkeypatch.setattr(tensorrt, "build", build_one)
    monkeypatch.setattr(TensorRt, "load", lambda flavour: tensorrt)
    source = shutil.copytree(bundle_path("lfpose-lite"), tmp_path / "lite")
    wanted = Engines("tensorrt", options=BuildOptions(dla_core=1))
    bundle = export_bundle(source, tmp_path / "b", engines=wanted)
    assert [(options.fp16, options.int8, options.batches) for options in asked] == [(True, False, (1, 1, 1))]
    (sidecar,) = (bundle.path / "engines").glob("*.json")
    assert json.loads(sidecar.read_text(encoding="utf-8"))["options"] == "dla 1"
    assert ("a DLA takes no INT8" in caplog.text) == ("int8-trt" in bundle.manifest.models)
    # It was compared with its ONNX file on four crops, one after the other.
    assert fake.shape == (1, 3, 192, 192)


def test_an_engine_that_cannot_be_read_or_run_says_so(fake: Fake) -> None:
    tensorrt = TensorRt.load("tensorrt")
    with pytest.raises(EngineMismatch, match=r"tensorrt 11\.9\.0 cannot read the engine"):
        Engine(tensorrt, b"rubbish")
    engine = Engine(tensorrt, blob_network().SerializeToString()).new_context()
    with pytest.raises(BundleError, match=r"does not take crops of shape \(17, 3, 64, 48\)"):
        engine.enqueue({"crops": (17, 3, 64, 48)}, {}, 0)
    shapes = {"crops": (2, 3, 64, 48), "cams": (2, 3, 9, 12)}
    with pytest.raises(BundleError, match=r"cams are \(2, 3, .*\), the bundle's float32 \(2, 3, 9, 12\)"):
        engine.enqueue(shapes, {}, 0)


def test_a_tensorrt_that_is_not_installed_says_how_to_get_it() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    assert "JetPack brings it" in (unavailable("tensorrt") or "")
    with pytest.raises(BackendUnavailable, match="tensorrt cannot be imported"):
        TensorRt.load("tensorrt")
