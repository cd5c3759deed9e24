"""Finds the matching engine in the bundle or the cache, or builds and caches it."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lfpose_edge.backends.engine_files import (
    Fingerprint,
    check_engine,
    engine_path,
    fingerprint_of,
    read_engine,
    write_engine,
)
from lfpose_edge.backends.tensorrt_api import BuildOptions, Engine, TensorRt
from lfpose_edge.backends.tensorrt_calls import Steps
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, EngineMismatch
from lfpose_edge.files import locked

logger = logging.getLogger("lfpose_edge")


@dataclass(frozen=True)
class Gpu:
    """The properties of a GPU that an engine depends on.

    Attributes:
        name: the name that its driver gives.
        capability: compute capability, such as (8, 6).
        multiprocessors: their number, which can differ between modules of the same name.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int

    @classmethod
    def of(cls, device: int) -> Gpu:
        """The GPU with a device number."""
        from lfpose_edge._cuda import device_facts

        facts = device_facts(device)
        return cls(facts["name"], facts["compute_capability"], facts["multiprocessors"])

    @property
    def label(self) -> str:
        """Such as ``Orin SM87 x 16``."""
        return f"{self.name} {self.architecture} x {self.multiprocessors}"

    @property
    def architecture(self) -> str:
        """Such as ``SM86``."""
        return "SM{}{}".format(*self.capability)


def batches_up_to(most: int) -> tuple[int, int, int]:
    """The smallest, typical and largest batch of an engine."""
    return 1, min(4, most), most


def open_engine(
    bundle: Bundle,
    tensorrt: TensorRt,
    precision: Literal["fp32", "fp16", "int8"],
    gpu: Gpu,
    max_batch: int,
    cache: Path,
) -> Engine:
    """Open an engine for exactly this model, GPU, library and precision.

    The bundle's engines are tried first, then the cache; engines that are damaged or that TensorRT cannot
    read are skipped. If several processes ask at once, one builds and the others wait and read its engine.

    Args:
        bundle: the model; engines built ahead of time are in its ``engines`` folder.
        tensorrt: the library that builds and runs the engine.
        precision: precision of the engine.
        gpu: the GPU to run on, which must be the thread's current device.
        max_batch: maximum number of crops per call.
        cache: folder of cached engines.

    Raises:
        BackendUnavailable: such an engine cannot be built here.
        BundleError: the bundle lacks the precision, or TensorRT refuses the model.
        OSError: the cache cannot be written.
    """
    file = bundle.model_file("int8-trt" if precision == "int8" else "fp32")
    wanted = Fingerprint(
        model_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        library=tensorrt.trt.__name__,
        version=tensorrt.trt.__version__,
        gpu=gpu.label,
        precision=precision,
        batches=batches_up_to(max_batch),
        size=bundle.manifest.input.size,
    )
    for plan, dla_core in _plans(bundle.path / "engines", cache, wanted, gpu):
        try:
            return Engine(tensorrt, plan, dla_core)
        except EngineMismatch as error:
            logger.warning("%s; it is passed over", error)
    if precision == "fp16" and tensorrt.types_are_the_files:
        message = (
            f"{tensorrt.name} computes in the types of the file, and {file.name} is of float32: build the "
            "fp16 engine into a bundle (lfpose-export MODEL --out BUNDLE --engine ...), or take precision "
            "'int8' or 'fp32'"
        )
        raise BackendUnavailable(message)
    return _build(file, tensorrt, wanted, gpu, cache)


def _plans(shipped: Path, cache: Path, wanted: Fingerprint, gpu: Gpu) -> Iterator[tuple[bytes, int | None]]:
    """Yield the engines whose sidecars match: the bundle's, with any build options, then the cache's.

    Each comes with the Jetson DLA core that it was built for, or None.
    """
    for path in sorted(shipped.glob("*.engine")):
        try:
            facts, plan = check_engine(path)
            found = fingerprint_of(facts, path)
        except EngineMismatch as error:
            logger.warning("%s", error)
            continue
        alike = replace(wanted, options=found.options, batches=found.batches)
        if found.gpu == gpu.architecture:  # built ahead of time, for any GPU of this architecture
            alike = replace(alike, gpu=found.gpu)
        if found == alike and found.batches[0] == 1 and found.batches[2] >= wanted.batches[2]:
            yield plan, found.dla_core
        else:
            logger.info("%s does not fit: %s", path.name, "; ".join(wanted.differences(found)))
    if engine_path(cache, wanted).is_file():
        try:
            yield read_engine(engine_path(cache, wanted), wanted), None
        except EngineMismatch as error:
            logger.warning("%s", error)


def _build(file: Path, tensorrt: TensorRt, wanted: Fingerprint, gpu: Gpu, cache: Path) -> Engine:
    path = engine_path(cache, wanted)
    before = path.stat().st_mtime_ns if path.is_file() else None
    cache.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        if path.is_file() and path.stat().st_mtime_ns != before:  # another process was first
            return Engine(tensorrt, read_engine(path, wanted))
        logger.warning(
            "building the %s engine of %s for %s with %s: this takes a minute or more, and it is kept in %s",
            wanted.precision,
            file,
            gpu.name,
            tensorrt.name,
            cache,
        )
        options = BuildOptions(
            fp16=wanted.precision != "fp32",
            int8=wanted.precision == "int8",
            batches=wanted.batches,
            size=wanted.size,
            timing_cache=cache / f"{wanted.library}-{wanted.version}-{gpu.architecture}.timing",
        )
        model = file.read_bytes() if wanted.precision == "int8" else with_folded_weights(file)
        plan = tensorrt.build(model, options, _log_tenths())
        engine = Engine(tensorrt, plan)
        write_engine(cache, wanted, plan)
    return engine


def with_folded_weights(file: Path) -> bytes:
    """A float model with float32 constants as weights; the file stores them as float16 behind a Cast.

    ONNX Runtime does the folding, because the runtime has no other reader of ONNX files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(out)
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return out.read_bytes()


def _log_tenths() -> Steps:
    """Make a callback that logs a build's progress at every tenth of each phase."""
    told: dict[str, int] = {}

    def steps(phase: str, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if total > 1 and told.get(phase) != tenth:
            told[phase] = tenth
            logger.info("%s: %d of %d", phase, done, total)

    return steps
