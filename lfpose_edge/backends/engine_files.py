"""Compiled engines on disk, each with a JSON sidecar that says what it was built for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from operator import index
from pathlib import Path
from typing import Any

from lfpose_edge.errors import EngineMismatch
from lfpose_edge.files import write_bytes_whole, write_text_whole


@dataclass(frozen=True)
class Fingerprint:
    """What an engine was built for; workspace, timing cache and driver do not matter and are left out.

    Attributes:
        model_sha256: checksum of the ONNX file.
        library: ``tensorrt``, ``tensorrt_rtx`` or ``torch_tensorrt``.
        version: the library's version.
        gpu: the GPU's label (:class:`lfpose_edge.backends.engine_cache.Gpu`), or the compute capability of
            an engine built ahead of time.
        precision: fp32, fp16 or int8.
        batches: smallest, typical and largest batch.
        size: crop height and width.
        options: anything else that changes the engine, such as a DLA core.
    """

    model_sha256: str
    library: str
    version: str
    gpu: str
    precision: str
    batches: tuple[int, int, int]
    size: tuple[int, int]
    options: str = ""

    @property
    def dla_core(self) -> int | None:
        """The Jetson DLA core that ``options`` names (``dla 1``), or None."""
        word, _, core = self.options.partition(" ")
        return int(core) if word == "dla" and core.isdigit() else None

    @property
    def key(self) -> str:
        """A short name, unique to this fingerprint."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> list[str]:
        """The fields that differ, as ``field: ours, not theirs``."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs]


def engine_path(folder: Path, fingerprint: Fingerprint) -> Path:
    """The path of a fingerprint's engine."""
    return folder / f"{fingerprint.key}.engine"


def write_engine(folder: Path, fingerprint: Fingerprint, plan: bytes) -> Path:
    """Write an engine after its sidecar, so that an engine never exists without one; returns its path."""
    path = engine_path(folder, fingerprint)
    facts = {**asdict(fingerprint), "engine_sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
    write_text_whole(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    write_bytes_whole(path, plan)
    return path


def check_engine(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read an engine's sidecar and the engine; EngineMismatch if either is missing or damaged."""
    try:
        facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        digest, plan = facts["engine_sha256"], path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"engine {path} has no readable sidecar: build it again ({type(error).__name__})"
        raise EngineMismatch(message) from error
    if hashlib.sha256(plan).hexdigest() != digest:
        message = f"engine {path} is damaged: build it again"
        raise EngineMismatch(message)
    return facts, plan


def fingerprint_of(facts: dict[str, Any], path: Path) -> Fingerprint:
    """The fingerprint in an engine's sidecar; EngineMismatch if it is missing or malformed."""
    try:
        own = {f.name: facts[f.name] for f in fields(Fingerprint)}
        least, usual, most = map(index, own.pop("batches"))
        height, width = map(index, own.pop("size"))
        if not all(isinstance(value, str) for value in own.values()):
            raise TypeError
        return Fingerprint(**own, batches=(least, usual, most), size=(height, width))
    except (KeyError, TypeError, ValueError) as error:
        message = f"engine {path} has no readable sidecar: build it again ({type(error).__name__})"
        raise EngineMismatch(message) from error


def read_engine(path: Path, wanted: Fingerprint) -> bytes:
    """Read an engine that must have the wanted fingerprint.

    Raises:
        EngineMismatch: it was built for something else (the message says what differs), or is damaged.
    """
    facts, plan = check_engine(path)
    found = fingerprint_of(facts, path)
    if found != wanted:
        message = f"engine {path} was built for another case ({'; '.join(wanted.differences(found))})"
        raise EngineMismatch(message)
    return plan
