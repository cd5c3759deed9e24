"""TensorRT engines of a bundle, built ahead of time."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
from lfpose_edge.export import torch_engines
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.half import to_half
from lfpose_edge.export.on_gpu import BuiltEngine, engine_session, has_gpu, require_parity
from lfpose_edge.export.proof import session

from lfpose_edge.backends.engine_cache import Gpu
from lfpose_edge.backends.engine_files import Fingerprint, write_engine
from lfpose_edge.backends.tensorrt import unfit_gpu
from lfpose_edge.backends.tensorrt_api import BuildOptions, Flavour, TensorRt
from lfpose_edge.backends.tensorrt_calls import Steps
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError, did_you_mean
from lfpose_edge.ops.gpu import require_device

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("lfpose_edge")

EnginePrecision = Literal["fp32", "fp16", "int8"]
EngineKind = Flavour | Literal["torch_tensorrt"]
KINDS: dict[str, EngineKind] = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch-tensorrt": "torch_tensorrt",
}


@dataclass(frozen=True)
class Engines:
    """Engines to build into a bundle.

    Attributes:
        kind: which TensorRT.
        precisions: of the engines; None takes fp16, and int8 where the bundle has it.
        gpus: compute capabilities to build for (``SM86``); empty builds for the GPU that is here.
        options: all other build options.
    """

    kind: EngineKind
    precisions: tuple[EnginePrecision, ...] | None = None
    gpus: tuple[str, ...] = ()
    options: BuildOptions = BuildOptions()


def require(wanted: Engines) -> None:
    """Raise BackendUnavailable, with advice, if such engines cannot be built here; call before long work."""
    if wanted.kind == "torch_tensorrt":
        reason = torch_engines.unavailable()
        if reason:
            raise BackendUnavailable(reason)
        return
    tensorrt = TensorRt.load(wanted.kind)
    for gpu in wanted.gpus:
        tensorrt.require_target(gpu)
    if not wanted.gpus and (reason := unfit_gpu(wanted.kind, gpu_here())):
        raise BackendUnavailable(reason)
    if wanted.options.dla_core is not None and tensorrt.types_are_the_files:
        message = f"{tensorrt.name} builds nothing for a Jetson's DLA: leave out --dla-core"
        raise BackendUnavailable(message)


def require_network(kind: EngineKind, network: torch.nn.Module | None) -> None:
    """Raise BundleError if engines of a kind are compiled from a torch network and there is none."""
    if kind == "torch_tensorrt" and network is None:
        message = (
            "torch-tensorrt compiles the network itself: export a checkpoint (.pt), not a bundle or ONNX"
        )
        raise BundleError(message)


def build_engines(
    bundle: Bundle, wanted: Engines, network: torch.nn.Module | None = None, steps: Steps | None = None
) -> list[BuiltEngine]:
    """Build all requested engines; raises the same errors as :func:`build_engine`.

    Args:
        bundle: the bundle to build into.
        wanted: the engines to build.
        network: the torch network that the bundle was exported from, for Torch-TensorRT.
        steps: called as a build progresses, with the current phase, the steps done and the total steps.
    """
    kind = wanted.kind
    if kind == "torch_tensorrt":
        require_network(kind, network)
        assert network is not None
        return [torch_engines.build_torch_engine(network, bundle, wanted.options)]
    precisions = wanted.precisions or ("fp16", *(("int8",) if "int8-trt" in bundle.manifest.models else ()))
    options = wanted.options
    if options.dla_core is not None:  # a DLA takes no Q/DQ pairs, and one batch size only
        if "int8" in precisions:
            logger.warning("a DLA takes no INT8 of this kind: its engine is fp16, for one crop at a time")
        precisions, options = ("fp16",), replace(options, batches=(1, 1, 1))
    built = []
    for precision in precisions:
        for gpu in wanted.gpus or (None,):
            options = replace(options, compute_capability=gpu)
            built.append(build_engine(bundle, kind, precision, options, _labelled(steps, precision, gpu)))
    return built


def _labelled(steps: Steps | None, precision: str, gpu: str | None) -> Steps | None:
    if steps is None:
        return None
    label = f"{precision} engine for {gpu or 'the GPU here'}"
    return lambda phase, done, total: steps(f"{label}: {phase}", done, total)


def engine_kind(name: str) -> EngineKind:
    """The engine kind with a user-facing name; raises BackendUnavailable for an unknown name."""
    if name not in KINDS:
        message = f"unknown engine {name!r}; {did_you_mean(name, KINDS)}"
        raise BackendUnavailable(message)
    return KINDS[name]


def build_engine(
    bundle: Bundle,
    flavour: Flavour,
    precision: EnginePrecision,
    options: BuildOptions,
    steps: Steps | None = None,
) -> BuiltEngine:
    """Build an engine into a bundle's ``engines`` folder; if its GPU is here, compare it with its ONNX file.

    Args:
        bundle: has the ONNX file of the precision; fp16 is made from fp32.
        flavour: which TensorRT.
        precision: of the engine.
        options: build options; ``fp16`` and ``int8`` are set here.
        steps: called as this build progresses; see :func:`build_engines`.

    Raises:
        BackendUnavailable: TensorRT is not available, or cannot build with these options.
        BundleError: the bundle lacks the precision, or TensorRT refuses the model.
        AccuracyGateError: the engine does not compute what the ONNX file computes.
    """
    tensorrt = TensorRt.load(flavour)
    manifest = bundle.manifest
    file = bundle.model_file("int8-trt" if precision == "int8" else "fp32")
    model = _fixed_size(file, manifest.input.size)
    reference = session(model)
    if precision == "fp16" and tensorrt.types_are_the_files:
        model = to_half(model)
    gpu = options.compute_capability or gpu_here().label
    data: bytes = model.SerializeToString()
    plan = tensorrt.build(data, replace(options, fp16=precision != "fp32", int8=precision == "int8"), steps)
    label, infer, stand_in = f"{tensorrt.name} {precision} {gpu}", None, None
    if has_gpu(options.compute_capability):
        joints, rows, columns = manifest.cams_shape
        infer = engine_session(tensorrt, plan, joints, (rows, columns), options.batches[2], options.dla_core)
        require_parity(label, infer, reference, manifest.input)
    else:
        if options.compute_capability is None:
            logger.warning("%s was not run: torch finds no GPU here, so nothing says what it computes", label)
        if precision == "fp16":
            stand_in = session(model if tensorrt.types_are_the_files else to_half(model))
            require_parity(f"{label}, in ONNX Runtime,", stand_in, reference, manifest.input)
    fingerprint = Fingerprint(
        model_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        library=tensorrt.trt.__name__,
        version=tensorrt.trt.__version__,
        gpu=gpu,
        precision=precision,
        batches=options.batches,
        size=manifest.input.size,
        options="" if options.dla_core is None else f"dla {options.dla_core}",
    )
    path = write_engine(bundle.path / "engines", fingerprint, plan)
    return BuiltEngine(path, label, infer, stand_in)


def _fixed_size(file: Path, size: tuple[int, int]) -> onnx.ModelProto:
    """The model with float32 weights (files store them as float16), and crops of a fixed size."""
    model = Graph(onnx.load(file)).to_model()
    for axis, pixels in zip((2, 3), size, strict=True):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = pixels
    return model


def gpu_here() -> Gpu:
    """The first GPU, found by the package's kernels, or by pycuda if the package was built without them."""
    try:
        require_device()
        return Gpu.of(0)
    except BackendUnavailable as error:
        reason = str(error)
    try:
        import pycuda.driver as driver
    except ImportError as error:
        message = f"{reason}; or pip install pycuda; or with tensorrt-rtx name a GPU to build for with --gpu"
        raise BackendUnavailable(message) from error
    try:
        driver.init()
        device = driver.Device(0)
        count = device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)
        return Gpu(device.name(), device.compute_capability(), count)
    except driver.Error as error:
        message = f"no GPU is here ({error}); with tensorrt-rtx name one to build for with --gpu"
        raise BackendUnavailable(message) from error
