"""Reads MATLAB files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import BackendUnavailable, SourceError


def read_matlab(path: Path, *names: str) -> list[NDArray[np.float64]]:
    """Read arrays of numbers from a ``.mat`` file by name.

    Raises:
        SourceError: the file is missing or damaged, or lacks one of the names.
        BackendUnavailable: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        message = f"reading {path} needs scipy: pip install scipy"
        raise BackendUnavailable(message) from error
    broken = (
        IndexError,
        KeyError,
        MatReadError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
        zlib.error,
    )
    try:
        tree: dict[str, Any] = loadmat(str(path))
        return [np.asarray(tree[name], np.float64) for name in names]
    except FileNotFoundError as error:
        message = f"no file {path}"
        raise SourceError(message) from error
    except broken as error:
        wanted = " and ".join(repr(name) for name in names)
        message = f"{path} is no MATLAB file with the table {wanted} ({type(error).__name__}: {error})"
        raise SourceError(message) from error
