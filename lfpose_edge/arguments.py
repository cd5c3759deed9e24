"""Checks of user arguments; each error names the argument and what is allowed."""

from __future__ import annotations

import math
import numbers
import os
from pathlib import Path

import numpy as np


def check_count(name: str, value: object) -> None:
    """Raise TypeError unless the value is an integer, and ValueError unless it is at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        message = f"{name} must be an int, got {value!r}"
        raise TypeError(message)
    if value < 1:
        message = f"{name} must be at least 1, got {value}"
        raise ValueError(message)


def check_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless the value is a finite number from ``low`` to ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not low <= float(value) <= high
        or math.isinf(value)
    ):
        allowed = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        message = f"{name} must be a number {allowed}, got {value!r}"
        raise ValueError(message)


def given_path(name: str, path: str | os.PathLike[str]) -> Path:
    """The path; ValueError if it is empty, which pathlib would take for the current folder."""
    if not os.fspath(path):
        message = f"{name} is empty: give a path, '.' for the current folder"
        raise ValueError(message)
    return Path(path)


def writable_folder(name: str, path: str | os.PathLike[str]) -> str:
    """The path of a folder, created if needed; ValueError if it cannot be created or written to."""
    folder = given_path(name, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{name} {folder} cannot be a folder: {error.strerror}"
        raise ValueError(message) from error
    if not os.access(folder, os.W_OK):
        message = f"{name} {folder} cannot be written"
        raise ValueError(message)
    return str(folder)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError, listing the choices, unless the value is one of them."""
    if value not in choices:
        message = f"{name} must be one of {', '.join(choices)}, got {value!r}"
        raise ValueError(message)
