"""Imports OpenCV, or says what to do if that fails. The package imports ``cv2`` from this module only."""

from __future__ import annotations

import os
from typing import Any

from lfpose_edge.errors import BackendUnavailable

try:
    import cv2
except ImportError as error:  # the usual cause is a machine without libGL
    message = (
        f"OpenCV cannot be imported ({error}): on a machine without a screen install its system library "
        "(Debian: apt-get install libgl1 libglib2.0-0), or use the build that needs none "
        "(pip uninstall opencv-python; pip install opencv-python-headless)"
    )
    raise BackendUnavailable(message) from error

__all__ = ["cv2", "file_name"]


def file_name(path: str | os.PathLike[str]) -> Any:  # str or bytes; OpenCV's stubs do not know bytes
    """A path for OpenCV, as bytes if it is not valid UTF-8 (possible on Linux): a str would crash it."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text
