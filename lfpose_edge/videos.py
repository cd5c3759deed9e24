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

_GAP = 300  # frames in a row that cannot be decoded, after which no good one is looked for
_HEADED = frozenset((".mp4", ".m4v", ".mov"))  # which say how long they play


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
    """The frames of a video file, a camera or a stream, (H, W, 3) BGR.

    Their times are the file's, or, where it has none, made of its rate; those of a camera or a stream, which
    say other things, are the clock's since the first frame.

    Args:
        source: a path, a URL, or a camera's number.
        name: to call it by.
        on_cut_off: as :func:`lfpose_edge.sources.frames` takes it.
        live: refuse what is no camera and no stream.

    Raises:
        SourceError: it cannot be read, or is a recording; after its last frame, a camera or stream that gives
            no more, or a video file that is cut off or damaged.
    """
    capture = _opened(source)
    try:
        if not capture.isOpened():
            message = f"cannot open {name}: no such camera, stream or video, or a codec that OpenCV lacks"
            raise SourceError(message)
        # Cameras and streams answer 0, -1 or nonsense.
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
                    has_times = False  # MPEG's own streams, and bare H.264
                time_s = max(time_s, position) if has_times or not fps else index / fps
            yield VideoFrame(image, index, time_s, announced, fps, is_live)
            index += 1
        if index == damaged:
            message = f"{name} opened, but holds no frame that can be decoded"
            raise SourceError(message)
        if is_live:
            message = f"{name} gives no more frames after {index}: look whether it is still there"
            raise SourceError(message)
        # Containers estimate their length, so a little less is no sign of anything; and where frames come
        # irregularly it is their time that tells how far they reach.
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
    """The newest frame whenever one is asked for; those that came before it meanwhile are passed over.

    Args:
        shots: of a camera or a stream, which is read beside whoever works on its frames.

    Raises:
        SourceError: what ended them, after the last one.
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
        except BaseException as error:  # whatever it is, who asks for a frame is told
            slot.put(error)
        finally:
            shots.close()

    reading = threading.Thread(target=read, daemon=True)

    def leave() -> None:
        is_left.set()
        with suppress(Empty):
            slot.get_nowait()
        reading.join(1.0)  # a camera's next frame is soon there, and then it is free again

    atexit.register(leave)  # a thread that comes back from OpenCV when Python has ended ends the process
    reading.start()
    try:
        while True:
            try:
                shot = slot.get(timeout=0.2)  # a stop is heard in between
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
    """A URL without the user and password in it; all else as it is."""
    if "://" not in url or "@" not in url:
        return url
    try:
        place = urlsplit(url).netloc
    except ValueError:
        return url
    return url.replace(place, place.rpartition("@")[2], 1)


def _opened(source: str | int) -> Any:
    """OpenCV's capture; that of a URL is opened beside, so that a stop is heard while nobody answers."""
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    if "://" not in source:  # in "12:00.mp4" FFmpeg would see a protocol, in an absolute path it sees none
        return cv2.VideoCapture(file_name(os.path.abspath(source)))  # noqa: PTH100
    opened: list[Any] = []

    def connect() -> None:
        with suppress(cv2.error):
            opened.append(cv2.VideoCapture(source))

    opening = threading.Thread(target=connect, daemon=True)
    opening.start()
    while opening.is_alive():
        opening.join(0.2)
    return opened[0] if opened else cv2.VideoCapture()  # which is not open


def _seconds(path: str) -> float | None:
    """How long an MP4 or a MOV plays by its header: less than its frames would take where it was trimmed."""
    if Path(path).suffix.lower() not in _HEADED:
        return None
    try:
        with Path(path).open("rb") as file:
            end, at = file.seek(0, 2), 0
            while at + 8 <= end:
                file.seek(at)
                size, kind = struct.unpack(">I4s", file.read(8))
                inside = at + 8
                if size == 1:  # it follows, in 8 bytes
                    (size,) = struct.unpack(">Q", file.read(8))
                    inside += 8
                if kind == b"mvhd":
                    is_long = file.read(4)[0] == 1
                    file.seek(16 if is_long else 8, 1)  # when it was made, and changed
                    form = struct.Struct(">IQ" if is_long else ">II")
                    ticks, length = form.unpack(file.read(form.size))
                    return float(length / ticks) if ticks and length else None
                if size and size < inside - at:
                    return None
                at = inside if kind == b"moov" else at + (size or end)
    except (OSError, struct.error, IndexError):
        pass  # whoever reads its frames will say what is wrong with it
    return None
