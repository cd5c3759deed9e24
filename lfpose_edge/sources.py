"""Images and videos as arrays, whatever they come as."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import SourceError
from lfpose_edge.opencv import cv2

Color = Literal["bgr", "rgb"]
Image = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image: (H, W, 3) uint8, or as it came when the source is a sequence of arrays.
        name: the file's path, or the source's with the frame's number.
        index: counts from 0.
        time_s: seconds since the start of a video; None for images.
    """

    image: Image
    name: str
    index: int
    time_s: float | None = None


def load_image(source: object, color: Color = "bgr") -> Image:
    """An image as a uint8 array.

    Args:
        source: an array, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, returned as it is; a path, or
            the bytes of an encoded image, decoded to (H, W, 3) and turned as its EXIF entry says.
        color: channel order of a decoded image.

    Raises:
        TypeError: the object, or the array's dtype, is none of these.
        SourceError: the file is missing, empty, truncated or not an image; an array has another shape.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    if isinstance(source, str | os.PathLike):
        return _decode(_read_file(Path(source)), str(source), color)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), "the given bytes", color)
    message = (
        f"an image is a uint8 array, a path or the bytes of an encoded image, got {type(source).__name__}"
    )
    raise TypeError(message)


def frames(source: object, color: Color = "bgr") -> Iterator[Frame]:
    """The images of a source, one at a time.

    Args:
        source: an image or video file, a folder of images, a glob pattern, a camera's number, the URL of
            a stream, or an iterable of anything that :func:`load_image` takes.
        color: channel order of what is decoded.

    Raises:
        TypeError, SourceError: as :func:`load_image`; a folder without images; a video that cannot be read.
    """
    if isinstance(source, bool):
        message = "a source is a path, a camera's number or a sequence of images, got bool"
        raise TypeError(message)
    if isinstance(source, int):
        yield from _video(source, f"camera {source}", color)
    elif isinstance(source, str | os.PathLike):
        yield from _path_frames(str(os.fspath(source)), color)
    elif isinstance(source, np.ndarray | bytes | bytearray | memoryview):
        yield Frame(load_image(source, color), "image", 0)
    elif isinstance(source, Iterable):
        for i, item in enumerate(source):
            name = str(item) if isinstance(item, str | os.PathLike) else f"image {i}"
            yield Frame(load_image(item, color), name, i)
    else:
        message = (
            f"a source is a path, a camera's number or a sequence of images, got {type(source).__name__}"
        )
        raise TypeError(message)


def _path_frames(text: str, color: Color) -> Iterator[Frame]:
    path = Path(text)
    if "://" in text or path.suffix.lower() in VIDEO_SUFFIXES:
        if "://" not in text and not path.is_file():
            message = f"no file {path}"
            raise SourceError(message)
        yield from _video(text, text, color)
        return
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            message = f"folder {path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
            raise SourceError(message)
    elif glob.has_magic(text) and not path.exists():
        files = sorted(Path(p) for p in glob.iglob(text, recursive=True))  # noqa: PTH207
        if not files:
            message = f"no file matches {text}"
            raise SourceError(message)
    else:
        files = [path]
    for i, file in enumerate(files):
        yield Frame(load_image(file, color), str(file), i)


def _video(source: str | int, name: str, color: Color) -> Iterator[Frame]:
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            message = f"cannot open {name}: no such camera or stream, or a codec that OpenCV lacks"
            raise SourceError(message)
        index = 0
        while True:
            good, image = capture.read()
            if not good:
                break
            time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(_ordered(image, color), f"{name} frame {index}", index, time_s)
            index += 1
        if index == 0:
            message = f"{name} opened, but holds no frame that can be decoded"
            raise SourceError(message)
    finally:
        capture.release()


def _checked_array(image: NDArray[Any]) -> Image:
    if image.dtype != np.uint8:
        message = f"an image array must be uint8 with values 0 to 255, got {image.dtype}"
        if np.issubdtype(image.dtype, np.floating):
            message += "; for values in [0, 1] pass (image * 255).round().astype(numpy.uint8)"
        raise TypeError(message)
    good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not good or image.size == 0:
        message = (
            f"an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not empty, got shape {image.shape}"
        )
        raise SourceError(message)
    return image


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        message = f"{path} is a folder; give an image, or use stream() or `lfpose predict` for a folder"
        raise SourceError(message)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        message = f"no file {path}"
        raise SourceError(message) from None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}"
        raise SourceError(message) from error


def _decode(data: bytes, name: str, color: Color) -> Image:
    if not data:
        message = f"{name} is empty (0 bytes)"
        raise SourceError(message)
    if _is_truncated(data):
        message = f"{name} is truncated: the end of the image is missing"
        raise SourceError(message)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        message = f"cannot decode {name}: {error.err or error}"
        raise SourceError(message) from error
    if image is None:
        message = f"{name} is damaged, or not an image that OpenCV reads"
        raise SourceError(message)
    return _ordered(image, color)


def _ordered(image: Any, color: Color) -> Image:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if color == "rgb" else image  # type: ignore[no-any-return]


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark; OpenCV would fill the rest with grey and say nothing."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data[-64:]
    if not data.startswith(b"\xff\xd8"):
        return False
    # Walk the segments: an embedded thumbnail in one of them has an end mark of its own.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:  # the picture's data begin
            return data.find(b"\xff\xd9", at) < 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True
