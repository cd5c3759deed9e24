"""Videos, cameras and streams, frame by frame."""

from __future__ import annotations

import atexit
import os
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import SourceError
from lfpose_edge.opencv import cv2, file_name

_GAP = 300  # after more undecodable frames than this in a row, stop looking for a good one
_HEADED = frozenset((".mp4", ".m4v", ".mov"))  # formats whose header states the duration


@dataclass(frozen=True)
class VideoFrame:
    """One frame; see :class:`lfpose_edge.sources.Frame`."""

    image: NDArray[np.uint8]
    index: int
    time_s: float
    count: int | None
    fps: float | None
    live: bool


def read_video(
    source: str | int,
    name: str,
    on_cut_off: Callable[[SourceError], None] | None = None,
    *,
    live: bool = False,
) -> Generator[VideoFrame]:
    """Iterate over the frames of a video file, a camera or a stream, (H, W, 3) BGR.

    Frame times come from the file or, if it has none, from its frame rate. Those of cameras and streams are
    unreliable, so the clock is used, from the first frame on.

    Args:
        source: a path, a URL, or a camera's number.
        name: the source's name in messages.
        on_cut_off: the ``on_unreadable`` of :func:`lfpose_edge.sources.frames`.
        live: refuse anything but a camera or stream.

    Raises:
        SourceError: it cannot be read, or is a recording although ``live`` is set; after the last frame, the
            camera or stream has stopped, or the video file is truncated or damaged.
    """
    capture = _opened(source)
    try:
        if not capture.isOpened():
            message = f"cannot open {name}: no such camera, stream or video, or a codec that OpenCV lacks"
            raise SourceError(message)
        # Cameras and streams report 0, -1 or nonsense.
        announced = int(max(0.0, min(capture.get(cv2.CAP_PROP_FRAME_COUNT), 1e9))) or None
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate if 0 < rate < 1000 else None
        if announced and fps and isinstance(source, str) and (plays := _seconds(source)):
            announced = max(1, min(announced, round(plays * fps)))
        is_live = isinstance(source, int) or (announced is None and "://" in source)
        if live and not is_live:
            message = f"{name} is a recording, all of whose frames wait: latest is for cameras and streams"
            raise SourceError(message)
        index, began, time_s, has_times = 0, 0.0, 0.0, True
        gap = damaged = 0
        while True:
            good, image = capture.read()
            if not good:
                gap += 1
                if is_live or gap > _GAP or index + gap >= (announced or 0):
                    break
                continue
            index, damaged, gap = index + gap, damaged + gap, 0
            if is_live:
                began = began or monotonic()
                time_s = monotonic() - began
            else:
                position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if index == 1 and fps and not position > time_s:
                    has_times = False  # MPEG elementary streams and raw H.264
                time_s = max(time_s, position) if has_times or not fps else index / fps
            yield VideoFrame(image, index, time_s, announced, fps, is_live)
            index += 1
        if index == damaged:
            message = f"{name} opened, but holds no frame that can be decoded"
            raise SourceError(message)
        if is_live:
            message = f"{name} gives no more frames after {index}: look whether it is still there"
            raise SourceError(message)
        # Containers only estimate their length, so slightly fewer frames are normal. With an irregular frame
        # rate, it is the frame times that tell how far the file was read.
        reached = max(index, time_s * rate + 1)
        problem = f"has {damaged} frames before its end that cannot be decoded" if damaged else None
        if announced and reached < 0.9 * announced:
            read = index - damaged
            problem = f"announces {announced} frames, but only {read} can be read: it may be cut off"
        if problem is not None:
            broken = SourceError(f"{name} {problem} (`lfpose predict --keep-going` takes what there is)")
            if on_cut_off is None:
                raise broken
            on_cut_off(broken)
    finally:
        capture.release()


def latest_of(shots: Generator[VideoFrame]) -> Iterator[VideoFrame]:
    """Always yield the newest frame; older ones that arrived in the meantime are skipped.

    Args:
        shots: the frames of a camera or stream; a thread reads them while the consumer works.

    Raises:
        SourceError: the error that ended ``shots``, after its last frame.
    """
    slot: Queue[VideoFrame | BaseException | None] = Queue(1)
    is_left = threading.Event()

    def read() -> None:
        try:
            for shot in shots:
                if is_left.is_set():
                    return
                with suppress(Empty):
                    slot.get_nowait()
                slot.put(shot)
            slot.put(None)
        except BaseException as error:  # whatever it is, pass it on to the consumer
            slot.put(error)
        finally:
            shots.close()

    reading = threading.Thread(target=read, daemon=True)

    def leave() -> None:
        is_left.set()
        with suppress(Empty):
            slot.get_nowait()
        reading.join(1.0)  # a camera's next frame arrives soon, and then the camera is released

    atexit.register(leave)  # a thread that returns from OpenCV after Python has shut down kills the process
    reading.start()
    try:
        while True:
            try:
                shot = slot.get(timeout=0.2)  # so that Ctrl-C is noticed in between
            except Empty:
                continue
            if shot is None:
                return
            if isinstance(shot, BaseException):
                raise shot
            yield shot
    finally:
        atexit.unregister(leave)
        leave()


def without_password(url: str) -> str:
    """A URL without its user and password; any other text unchanged."""
    if "://" not in url or "@" not in url:
        return url
    try:
        place = urlsplit(url).netloc
    except ValueError:
        return url
    return url.replace(place, place.rpartition("@")[2], 1)


def _opened(source: str | int) -> Any:
    """Open OpenCV's capture; URLs are opened in a thread, so that Ctrl-C works while a server is silent."""
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    if "://" not in source:  # absolute, or FFmpeg would take "12:00.mp4" for a protocol
        return cv2.VideoCapture(file_name(os.path.abspath(source)))  # noqa: PTH100
    opened: list[Any] = []

    def connect() -> None:
        with suppress(cv2.error):
            opened.append(cv2.VideoCapture(source))

    opening = threading.Thread(target=connect, daemon=True)
    opening.start()
    while opening.is_alive():
        opening.join(0.2)
    return opened[0] if opened else cv2.VideoCapture()  # an unopened capture


def _seconds(path: str) -> float | None:
    """Duration of an MP4 or MOV by its header; in a trimmed file it is shorter than all frames together."""
    if Path(path).suffix.lower() not in _HEADED:
        return None
    try:
        with Path(path).open("rb") as file:
            end, at = file.seek(0, 2), 0
            while at + 8 <= end:
                file.seek(at)
                size, kind = struct.unpack(">I4s", file.read(8))
                inside = at + 8
                if size == 1:  # the size follows, in 8 bytes
                    (size,) = struct.unpack(">Q", file.read(8))
                    inside += 8
                if kind == b"mvhd":
                    is_long = file.read(4)[0] == 1
                    file.seek(16 if is_long else 8, 1)  # skip the creation and modification times
                    form = struct.Struct(">IQ" if is_long else ">II")
                    ticks, length = form.unpack(file.read(form.size))
                    return float(length / ticks) if ticks and length else None
                if size and size < inside - at:
                    return None
                at = inside if kind == b"moov" else at + (size or end)
    except (OSError, struct.error, IndexError):
        pass  # reading the frames will report what is wrong
    return None
