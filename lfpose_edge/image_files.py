"""Reads and decodes encoded images; errors name the file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import SourceError
from lfpose_edge.opencv import cv2, file_name

logger = logging.getLogger("lfpose_edge")

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mjpg", ".mjpeg")
)
_LONG, _SHORT = 400, 60  # characters: names this long are shortened to so many in messages
_JPEG = b"\xff\xd8"


def read_image_file(path: Path, text: str) -> bytes:
    """The bytes of an image file.

    Args:
        path: the file.
        text: the user's text for it, used in messages.

    Raises:
        SourceError: it does not exist, cannot be read, or is a folder or a video.
    """
    try:
        if path.is_dir():
            message = f"{path} is a folder; give an image, or it alone to stream() or `lfpose predict`"
            raise SourceError(message)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            message = f"{path} is a video; give an image, or it alone to stream() or `lfpose predict`"
            raise SourceError(message)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise cannot_read(text, error) from error


def cannot_read(text: str, error: OSError | ValueError) -> SourceError:
    """The SourceError for a path that cannot be read, or for text that cannot be a path."""
    named = text if len(text) < _LONG else f"{text[:_SHORT]}..."
    if "://" in text or text.startswith("data:"):
        return SourceError(f"{named} is no file: an image is a path or its bytes, so fetch it and give those")
    if isinstance(error, FileNotFoundError):
        return SourceError(f"no file {named}")
    if isinstance(error, OSError):
        return SourceError(f"cannot read {named}: {error.strerror or error}")
    return SourceError(f"{named!r} is no path: {error}")  # it holds a NUL


def decode_image(data: bytes, name: str, flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8 BGR.

    Args:
        data: the file's bytes.
        name: the image's name in messages.
        flags: OpenCV's ``imdecode`` flags.

    Raises:
        SourceError: it is empty, truncated or not an image.
    """
    if not data:
        message = f"{name} is empty (0 bytes)"
        raise SourceError(message)
    if _is_truncated(data):
        message = f"{name} is truncated: the end of the image is missing"
        raise SourceError(message)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        message = f"cannot decode {name}: {error.err or error}"
        raise SourceError(message) from error
    if image is None:
        message = f"{name} is damaged, or not an image that OpenCV reads"
        raise SourceError(message)
    return np.asarray(image, np.uint8)


def warn_of_more(path: Path, data: bytes) -> None:
    """Log a warning if an image file, with the bytes ``data``, holds more pictures than the decoded one."""
    # A JPEG holds one, and a pipe cannot be read twice; for other files this takes a tenth of a millisecond.
    count = 1 if data.startswith(_JPEG) or not path.is_file() else cv2.imcount(file_name(path))
    if count > 1:
        logger.warning("%s holds %d pictures, and the first is taken: store the others as files", path, count)


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark; OpenCV would silently fill the rest with grey."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return not _png_ends(data)
    return data.startswith(_JPEG) and not _jpeg_ends(data)


def _png_ends(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, type, data, checksum
    return False


def _jpeg_ends(data: bytes) -> bool:
    # Walk the segments, because an embedded thumbnail has an end mark of its own.
    # Decoders skip stray bytes between segments.
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:
        kind = data[at + 1]
        if kind in (0x00, 0xFF):  # not a marker; a fill byte
            at += 1
        elif kind == 0xDA:  # start of the picture's data
            return data.find(b"\xff\xd9", at) >= 0
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
