"""The engine that fits: from the bundle, from the cache, or built and kept."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lfpose_edge.backends.engine_files import Fingerprint, engine_path, read_engine, write_engine
from lfpose_edge.backends.tensorrt_api import BuildOptions, Steps, TensorRt
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, EngineMismatch
from lfpose_edge.files import locked

logger = logging.getLogger("lfpose_edge")


@dataclass(frozen=True)
class Gpu:
    """A GPU as engines know it.

    Attributes:
        name: by its driver.
        capability: such as ``SM86``.
    """

    name: str
    capability: str

    @classmethod
    def of(cls, device: int) -> Gpu:
        """The GPU of a number."""
        from lfpose_edge._cuda import device_facts

        facts = device_facts(device)
        major, minor = facts["compute_capability"]
        return cls(facts["name"], f"SM{major}{minor}")


def batches_up_to(most: int) -> tuple[int, int, int]:
    """The least, the usual and the largest batch of an engine."""
    return 1, min(4, most), most


def find_or_build(
    bundle: Bundle,
    tensorrt: TensorRt,
    precision: Literal["fp32", "fp16", "int8"],
    gpu: Gpu,
    max_batch: int,
    cache: Path,
) -> bytes:
    """A serialised engine for exactly this model, GPU, library, precision and batch.

    Several processes may ask at once: one builds, the others wait and read. A damaged engine in the cache is
    built anew.

    Args:
        bundle: the model; engines that were built ahead of time are in its ``engines`` folder.
        tensorrt: which builds, and will run.
        precision: of the engine.
        gpu: the one that is here.
        max_batch: most crops at once.
        cache: folder where engines are kept.

    Raises:
        BackendUnavailable: such an engine cannot be built here.
        BundleError: the bundle lacks the precision, or TensorRT refuses the model.
        OSError: the cache cannot be written.
    """
    file = bundle.model_file("int8-trt" if precision == "int8" else "fp32")
    model = file.read_bytes()
    wanted = Fingerprint(
        model_sha256=hashlib.sha256(model).hexdigest(),
        library=tensorrt.trt.__name__,
        version=tensorrt.trt.__version__,
        gpu=gpu.name,
        precision=precision,
        batches=batches_up_to(max_batch),
    )
    ahead = replace(wanted, gpu=gpu.capability)
    shipped = bundle.path / "engines"
    for folder, fingerprint in ((shipped, wanted), (shipped, ahead), (cache, wanted)):
        plan = _read(folder, fingerprint)
        if plan is not None:
            return plan
    if precision == "fp16" and tensorrt.types_are_the_files:
        message = (
            f"{tensorrt.name} computes in the types of the file, and {file.name} is of float32: build the "
            "fp16 engine into a bundle (lfpose-export MODEL --out BUNDLE --engine ...), or take precision "
            "'int8' or 'fp32'"
        )
        raise BackendUnavailable(message)
    _say_what_differs(shipped, wanted)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(engine_path(cache, wanted).with_suffix(".lock")):
        plan = _read(cache, wanted)
        if plan is not None:
            return plan
        logger.warning(
            "building the %s engine of %s for %s with %s: this takes a minute or more, and it is kept in %s",
            precision,
            bundle.manifest.name,
            gpu.name,
            tensorrt.name,
            cache,
        )
        options = BuildOptions(
            fp16=precision != "fp32",
            int8=precision == "int8",
            batches=wanted.batches,
            timing_cache=cache / f"{wanted.library}-{wanted.version}.timing",
        )
        plan = tensorrt.build(model, options, _log_tenths())
        write_engine(cache, wanted, plan)
    return plan


def _read(folder: Path, wanted: Fingerprint) -> bytes | None:
    path = engine_path(folder, wanted)
    if not path.is_file():
        return None
    try:
        return read_engine(path, wanted)
    except EngineMismatch as error:
        logger.warning("%s", error)
        return None


def _say_what_differs(folder: Path, wanted: Fingerprint) -> None:
    """Why no engine that came with the bundle fits."""
    for path in sorted(folder.glob("*.engine")):
        try:
            read_engine(path, wanted)
        except EngineMismatch as error:
            logger.info("%s", error)


def _log_tenths() -> Steps:
    """Says how far a build is, phase by phase, at every tenth."""
    told: dict[str, int] = {}

    def steps(phase: str, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if total > 1 and told.get(phase) != tenth:
            told[phase] = tenth
            logger.info("%s: %d of %d", phase, done, total)

    return steps
