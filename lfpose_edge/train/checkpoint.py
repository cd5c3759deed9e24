"""Training checkpoints: written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lfpose_edge.errors import BundleError, LFPoseError
from lfpose_edge.files import locked, require_writable, whole_file

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: a kill or a full disk leaves the old file as it was.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    made = io.BytesIO()  # written directly, a full disk would raise an error about a stream's position
    torch.save({"format": FORMAT, **state}, made)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(made.getbuffer())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def checkpoint_alone(path: Path) -> Iterator[None]:
    """Lock a checkpoint for this process, and remove the half-written files of killed ones.

    Raises:
        LFPoseError: another process holds the lock.
        OSError: the checkpoint cannot be written.
    """
    require_writable(path)
    with locked(path.with_name(f".{path.name}.lock"), wait=False) as alone:
        if not alone:
            message = f"another process trains into {path.parent}: wait for it, or give another --out"
            raise LFPoseError(message)
        for left in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
            left.unlink(missing_ok=True)
        yield


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        BundleError: it is missing, damaged, or not a checkpoint of this program.
    """
    if not path.is_file():
        message = f"no checkpoint at {path}"
        raise BundleError(message)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many exception types for a damaged file
        message = f"{path} is damaged or not a checkpoint ({type(error).__name__})"
        raise BundleError(message) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        message = f"{path} is not a checkpoint of lfpose-edge (format {FORMAT})"
        raise BundleError(message)
    return state
