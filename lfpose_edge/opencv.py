"""OpenCV, or what to do where it cannot be imported. Everything here imports ``cv2`` from this module."""

from __future__ import annotations

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

__all__ = ["cv2"]
