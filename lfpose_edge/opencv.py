"""OpenCV, or what to do where it cannot be imported. Everything here imports ``cv2`` from this module."""

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


def file_name(path: str | os.PathLike[str]) -> Any:  # str or bytes, of which OpenCV's stubs do not know
    """A path as OpenCV takes it: a name that is not UTF-8, as Linux has them, would crash it as a str."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text
