"""Overlays as files: one image, a folder of them, or a video."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lfpose_edge.cli.errors import stops_held
from lfpose_edge.errors import SourceError
from lfpose_edge.files import whole_file, write_bytes_whole
from lfpose_edge.opencv import cv2, file_name
from lfpose_edge.sources import IMAGE_SUFFIXES, Frame, Image

_FPS = 25.0  # of a video made from images
_MP4_TICKS = 1 << 16  # ticks per second must be fewer
_IMAGES = IMAGE_SUFFIXES - {".pgm"}  # which is greyscale
# Codecs that every OpenCV wheel can encode; containers that take neither, such as .webm or .mpg, are refused.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}


class OverlayWriter:
    """Writes overlays as one image, as images into a folder, or as a video, by the path's suffix.

    A single image or a video appears when the context exits without an error; a folder's images appear one
    by one, each whole.

    Attributes:
        shortened: set on exit if part of the video of a camera or a stream was lost: a message that says how
            much. Such frames cannot be had again, so the part that can be read back is kept.

    Raises:
        SourceError: the suffix or the frames cannot be written; or, on exit, the video of a file cannot be
            read back whole, in which case an earlier file at the path stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind = "" if path.is_dir() else path.suffix.lower()
        self._image: Image | None = None
        self._video: Any = None
        self._shown: Image | None = None
        self._live = False
        self.shortened: str | None = None
        self._file = contextlib.ExitStack()
        self._names: set[str] = set()
        if self._kind not in {"", *_IMAGES, *_CODECS}:
            message = (
                f"cannot write {path}: suffix {self._kind!r} is neither a colour image's nor that of a video "
                f"({', '.join(_CODECS)}); a folder with a dot in its name must exist"
            )
            raise SourceError(message)

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with stops_held():
            self._file.__exit__(kind, value, trace)
        if self._image is not None and kind is None:
            _write_image(self._path, self._image)

    def write(self, frame: Frame, overlay: Image) -> None:
        """Add one frame's overlay."""
        if self._kind in _CODECS:
            self._write_video(overlay, frame)
        elif self._kind in _IMAGES:
            if self._image is not None:
                message = (
                    f"{self._path} is one image, but the source has more frames: give a folder or a video"
                )
                raise SourceError(message)
            self._image = overlay
        else:
            _write_image(self._path / self._name(frame), overlay)

    def _name(self, frame: Frame) -> str:
        """A file name for a frame's overlay that no other frame's overlay has."""
        if frame.time_s is not None:
            return f"frame_{frame.index:06d}.jpg"
        source = Path(frame.name)
        if source.resolve().parent == self._path.resolve():
            message = f"--save {self._path} is the folder of {source}: overlays need a folder of their own"
            raise SourceError(message)
        names = (f"{source.stem}{f'-{i}' if i else ''}.jpg" for i in itertools.count())
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return name

    def _write_video(self, overlay: Image, frame: Frame) -> None:
        """Add a frame; that of a camera or a stream is repeated until the time of the next one."""
        overlay = _with_even_sides(overlay)
        height, width = overlay.shape[:2]
        if self._video is None:
            temporary = self._file.enter_context(whole_file(self._path))
            codec = _CODECS[self._kind]
            fps = frame.fps or _FPS
            self._rate = rate = _rate_in_mp4(fps) if codec == "mp4v" else fps
            self._video = cv2.VideoWriter(
                file_name(temporary), cv2.VideoWriter.fourcc(*codec), rate, (width, height)
            )
            self._size, self._count = (width, height), 0
            self._file.enter_context(self._released(temporary))
            if not self._video.isOpened():
                message = (
                    f"cannot write {self._path}: OpenCV writes no {self._kind} of {width}x{height} frames at "
                    f"{rate:g} a second here; try .avi, or a folder"
                )
                raise SourceError(message)
        if (width, height) != self._size:
            message = f"cannot write {self._path}: frames differ in size ({self._size} and {(width, height)})"
            raise SourceError(message)
        self._live = frame.live
        due = round((frame.time_s or 0.0) * self._rate) if frame.live else self._count
        # Cameras are often one frame early or late; following them more closely would stutter.
        for _ in range(self._count, due - 1):
            self._add(overlay if self._shown is None else self._shown)
        if self._count <= due + 1:
            self._add(overlay)
        self._shown = overlay

    def _add(self, overlay: Image) -> None:
        self._video.write(overlay)
        self._count += 1

    @contextlib.contextmanager
    def _released(self, temporary: Path) -> Iterator[None]:
        """Close the video at the end and read it back, since OpenCV does not report a full disk."""
        try:
            yield
        finally:
            self._video.release()
        count = _count_frames(temporary)
        if count < self._count:  # a stop between a frame and its count leaves one more
            message = (
                f"cannot write {self._path} whole: {count} of its {self._count} frames can be read back; is "
                "the disk full?"
            )
            if not (self._live and count):
                raise SourceError(message)
            self.shortened = message


def _with_even_sides(image: Image) -> Image:
    """Repeat the last row or column of an image if their number is odd: codecs would drop it."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _rate_in_mp4(fps: float) -> float:
    """Round a rate to one that mp4v can hold: up to three decimals, fewer for a high rate."""
    decimals = next((d for d in (3, 2, 1) if fps * 10**d < _MP4_TICKS), 0)
    return round(fps, decimals)


def _count_frames(video: Path) -> int:
    """How many frames a video holds; 0 if the file is not a video."""
    undecoded = [cv2.CAP_PROP_FORMAT, -1]  # FFmpeg's packets: it takes seconds to count an hour's
    capture = cv2.VideoCapture(file_name(video), cv2.CAP_FFMPEG, undecoded)
    if not capture.isOpened():  # an OpenCV without FFmpeg
        capture = cv2.VideoCapture(file_name(video))
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()


def _write_image(path: Path, image: Image) -> None:
    good, data = cv2.imencode(path.suffix, image)
    if not good:
        message = f"cannot encode {path}"
        raise SourceError(message)
    write_bytes_whole(path, data.tobytes())
