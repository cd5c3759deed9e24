"""Images and videos of every supported kind, as arrays."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import SourceError
from lfpose_edge.image_files import (
    VIDEO_SUFFIXES,
    cannot_read,
    decode_image,
    read_image_file,
    warn_of_more,
)
from lfpose_edge.leaving import CALLS
from lfpose_edge.opencv import cv2, file_name
from lfpose_edge.videos import latest_of, read_video, without_password

Color = Literal["bgr", "rgb", "nv12"]
Image = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image: (H, W, 3) uint8, or unchanged when the source is a sequence of arrays.
        name: the file's path, or the source's name with the frame's number; URLs lack their password.
        index: position from 0; skipped frames are counted.
        time_s: seconds since the start of a video, or since the first frame of a camera or stream arrived;
            None for images.
        count: number of frames that the source reports; None if it does not.
        fps: frames per second, if the video reports it.
        live: whether the frame comes from a camera or stream in real time.
    """

    image: Image
    name: str
    index: int
    time_s: float | None = None
    count: int | None = None
    fps: float | None = None
    live: bool = False


def on_gpu(image: object) -> bool:
    """Whether an array is in a CUDA device's memory, according to its DLPack or CUDA array interface."""
    ask = getattr(image, "__dlpack_device__", None)
    if ask is None:
        return hasattr(image, "__cuda_array_interface__")
    return int(ask()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged


def load_image(source: object, color: Color = "bgr") -> Image:
    """Load an image as a uint8 array.

    Args:
        source: an array, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, returned unchanged even if it is in
            GPU memory (torch, CuPy or any other with DLPack); or a path or the bytes of an encoded image,
            decoded to (H, W, 3) and oriented by its EXIF entry. From a file with several pictures the first
            is used, with a warning in the log.
        color: channel order of a decoded image. With ``nv12`` it is BGR, and arrays are (3 H / 2, W).

    Raises:
        TypeError: the object, or the array's dtype, is none of these.
        SourceError: the file is missing, empty, truncated or not an image; an array has another shape.
    """
    if isinstance(source, np.ndarray) or on_gpu(source):
        return _checked_array(source, color)  # type: ignore[arg-type]
    if isinstance(source, str | os.PathLike):
        text = local_path(str(os.fspath(source)))
        data = read_image_file(Path(text), text)
        with CALLS:
            image = decode_image(data, text)
            warn_of_more(Path(text), data)
        return _ordered(image, color)
    if isinstance(source, bytes | bytearray | memoryview):
        with CALLS:
            image = decode_image(bytes(source), "the given bytes")
        return _ordered(image, color)
    message = (
        f"an image is a uint8 array, a path or the bytes of an encoded image, got {type(source).__name__}"
    )
    raise TypeError(message + _hint_for(source))


def _hint_for(source: object) -> str:
    """A hint on how to turn a known kind of non-image into an image, or an empty string."""
    if source is None:
        return ": cv2.imread gives None where it cannot read a file"
    if isinstance(source, list | tuple):
        return ": for several images there are predict() and stream()"
    if type(source).__module__.partition(".")[0] == "PIL":
        return ": give numpy.asarray(image.convert('RGB')), and color='rgb' to the estimator"
    if type(source).__module__ == "torch":
        return ": give tensor.numpy(), uint8 and (H, W, 3)"
    return ""


def load_stored(path: Path, *, upright: bool = False) -> Image:
    """Load an image file as it is stored, (H, W, 3) uint8 BGR, ignoring the EXIF orientation.

    Args:
        path: the file.
        upright: refuse a file whose EXIF orientation changes the image.

    Raises:
        SourceError: as :func:`load_image`; ``upright`` is set and the image is not stored upright.
    """
    data = read_image_file(path, str(path))
    stored = decode_image(data, str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    may_be_turned = upright and re.search(rb"exif", data, re.IGNORECASE)
    if may_be_turned and not np.array_equal(stored, decode_image(data, str(path))):
        message = (
            f"{path} is turned by its EXIF entry, and training reads images as they are stored: store all of "
            "them upright (ImageMagick: mogrify -auto-orient *.jpg)"
        )
        raise SourceError(message)
    return stored


def frames(
    source: object,
    color: Color = "bgr",
    *,
    on_unreadable: Callable[[SourceError], None] | None = None,
    latest: bool = False,
) -> Iterator[Frame]:
    """Iterate over the images of a source.

    Args:
        source: an image or video file, a folder of images, a glob pattern, any of them as a ``file://`` URL,
            a camera's number, the URL of a stream, or an iterable of anything that :func:`load_image` takes.
        color: channel order of decoded images.
        on_unreadable: called with the error for each file of a folder, glob or list that cannot be read,
            which is then skipped, and for a truncated video file. None raises the error, which ends the
            iteration.
        latest: for a camera or stream, always yield the newest frame. Otherwise frames queue up while one is
            processed, and a consumer slower than the source falls further and further behind.

    Yields:
        The frames, in order.

    Raises:
        TypeError, SourceError: as :func:`load_image`; the folder has no images; the video cannot be read;
            after the last frame, the camera or stream has stopped, or the video file is truncated.
        ValueError: ``latest`` is set for a source that is neither a camera nor a stream.
    """
    if isinstance(source, bool):
        message = "a source is a path, a camera's number or a sequence of images, got bool"
        raise TypeError(message)
    if isinstance(source, int | np.integer):
        yield from _camera(int(source), color, latest)
    elif isinstance(source, str) and "://" in source and local_path(source) == source:
        yield from _video(source, without_password(source), color, on_unreadable, latest=latest)
    elif latest:
        message = f"latest is for a camera's number or a stream's URL, got {source!r:.80}"
        raise ValueError(message)
    elif isinstance(source, str | os.PathLike):
        yield from _path_frames(str(os.fspath(source)), color, on_unreadable)
    elif isinstance(source, np.ndarray | bytes | bytearray | memoryview) or on_gpu(source):
        yield Frame(load_image(source, color), "image", 0)
    elif isinstance(source, Iterable):
        count = len(source) if isinstance(source, Sized) else None
        for i, item in enumerate(source):
            is_file = isinstance(item, str | os.PathLike)
            try:
                image = load_image(item, color)
            except SourceError as error:
                if on_unreadable is None or not is_file:
                    raise
                on_unreadable(error)
                continue
            yield Frame(image, str(item) if is_file else f"image {i}", i, count=count)
    else:
        message = (
            f"a source is a path, a camera's number or a sequence of images, got {type(source).__name__}"
        )
        raise TypeError(message)


def local_path(text: str) -> str:
    """The path that a ``file://`` URL names; any other text unchanged."""
    if not text.lower().startswith("file://"):
        return text
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(text).path)


def images_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The image files of a folder, in natural order: frame_2 before frame_10.

    Hidden files, such as the previews that macOS leaves, and files in hidden folders are skipped.

    Args:
        folder: the folder.
        deep: include its subfolders.

    Raises:
        SourceError: the folder holds no image, or cannot be read.
    """
    try:
        there = folder.rglob("*") if deep else folder.iterdir()
        images = (p for p in there if p.suffix.lower() in IMAGE_SUFFIXES)
        files = (p for p in images if not any(n.startswith(".") for n in p.relative_to(folder).parts))
        found = sorted((p for p in files if p.is_file()), key=_natural)
    except OSError as error:
        raise cannot_read(str(folder), error) from error
    if not found:
        message = f"folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
        if not deep and any(p.is_dir() for p in folder.iterdir()):
            message += f"; for those of the folders in it give '{folder}/**/*.jpg'"
        raise SourceError(message)
    return found


def _natural(path: Path) -> tuple[list[list[str | int]], Path]:
    """A sort key that compares digits as numbers; the path itself breaks ties, as of 1.jpg and 01.jpg."""
    runs = [re.split(r"(\d+)", part) for part in path.parts]  # alternating text and digits
    return [[int(run) if i % 2 else run for i, run in enumerate(part)] for part in runs], path


def _path_frames(
    text: str, color: Color, on_unreadable: Callable[[SourceError], None] | None
) -> Iterator[Frame]:
    if not text:
        message = "the source is empty: name an image, a folder, a video or a stream"
        raise SourceError(message)
    text = local_path(text)
    path = Path(text)
    try:
        is_folder, is_video = path.is_dir(), path.is_file() and _is_video(path)
    except OSError as error:  # the path is too long or not accessible
        raise cannot_read(text, error) from error
    if is_video:
        yield from _video(text, text, color, on_unreadable)
        return
    if is_folder:
        files = images_in(path)
    elif glob.has_magic(text) and not path.exists():
        matches = (Path(p) for p in glob.iglob(text, recursive=True))  # noqa: PTH207
        files = sorted((p for p in matches if not p.is_dir()), key=_natural)
        if not files:
            message = f"no file matches {text}"
            raise SourceError(message)
    else:
        files, on_unreadable = [path], None
    for i, file in enumerate(files):
        try:
            image = load_image(file, color)
        except SourceError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            continue
        yield Frame(image, str(file), i, count=len(files))


def _is_video(path: Path) -> bool:
    """Decide by the suffix; a GIF is a video if animated, an unknown file if OpenCV sees no image in it."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return suffix in VIDEO_SUFFIXES
    if suffix == ".gif" and cv2.imcount(file_name(path)) > 1:
        return True
    return path.stat().st_size > 0 and not cv2.haveImageReader(file_name(path))


def _camera(number: int, color: Color, latest: bool) -> Iterator[Frame]:
    if not 0 <= number < 2**31:
        message = f"no camera {number}: cameras are numbered from 0"
        raise SourceError(message)
    yield from _video(number, f"camera {number}", color, latest=latest)


def _video(
    source: str | int,
    name: str,
    color: Color,
    on_cut_off: Callable[[SourceError], None] | None = None,
    *,
    latest: bool = False,
) -> Iterator[Frame]:
    shots = read_video(source, name, on_cut_off, live=latest)
    for shot in latest_of(shots) if latest else CALLS.each(shots):
        image = _ordered(shot.image, color)
        yield Frame(
            image, f"{name} frame {shot.index}", shot.index, shot.time_s, shot.count, shot.fps, shot.live
        )


def image_size(image: Image, color: Color) -> tuple[int, int]:
    """Height and width, in pixels, of an image from :func:`load_image`."""
    rows, columns = image.shape[:2]
    return (2 * rows // 3 if _is_nv12(image, color) else rows), columns


def packed(image: Image, color: Color) -> Image:
    """A host image with interleaved channels: NV12 is converted to BGR, any other image is returned as is."""
    if not _is_nv12(image, color):
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_YUV2BGR_NV12), np.uint8)


def layout_of(image: Image, color: Color) -> Literal["packed", "nv12"]:
    """The memory layout of an image from :func:`load_image`."""
    return "nv12" if _is_nv12(image, color) else "packed"


def packed_order(color: Color) -> Literal["bgr", "rgb"]:
    """The channel order of images from :func:`packed`."""
    return "rgb" if color == "rgb" else "bgr"


def _is_nv12(image: Image, color: Color) -> bool:
    return color == "nv12" and len(image.shape) == 2


def _checked_array(image: NDArray[Any], color: Color) -> Image:
    if not (hasattr(image, "dtype") and hasattr(image, "shape")):
        message = (
            f"a {type(image).__name__} says neither its shape nor its dtype: wrap it, as torch's from_dlpack"
        )
        raise TypeError(message)
    kind = str(image.dtype).rpartition(".")[2]  # torch says torch.uint8
    if kind not in ("uint8", "|u1", "u1"):
        message = f"an image array must be uint8 with values 0 to 255, got {image.dtype}"
        if "float" in kind:
            message += "; for values in [0, 1] pass (image * 255).round().astype(numpy.uint8)"
        raise TypeError(message)
    axes = len(image.shape)
    if color == "nv12":
        if axes != 2 or 0 in image.shape or image.shape[0] % 3 or image.shape[1] % 2:
            message = (
                "an NV12 frame is (3 H / 2, W): H rows of luma, then H / 2 of chroma, H and W even, got "
                f"shape {tuple(image.shape)}; for other arrays take color='bgr' or 'rgb'"
            )
            raise SourceError(message)
    elif not (axes == 2 or (axes == 3 and image.shape[2] in (1, 3, 4))) or 0 in image.shape:
        message = (
            f"an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not empty, got shape {image.shape}"
        )
        if axes == 3 and image.shape[0] in (1, 3, 4):
            message += "; of (C, H, W) give array.transpose(1, 2, 0)"
        raise SourceError(message)
    return image


def _ordered(image: Any, color: Color) -> Image:
    if color != "rgb":
        return image  # type: ignore[no-any-return]
    with CALLS:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]
