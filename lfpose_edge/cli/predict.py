"""``lfpose predict`` and ``lfpose demo``."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Any

import numpy as np
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lfpose_edge.cli.errors import Stopped, list_left_out
from lfpose_edge.console import plain_console
from lfpose_edge.errors import SourceError
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.files import whole_file, write_bytes_whole
from lfpose_edge.opencv import cv2
from lfpose_edge.results import PoseResult
from lfpose_edge.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, Image, frames

_FPS = 25.0  # of a video made from images
_IMAGES = IMAGE_SUFFIXES - {".pgm"}  # which is grey
_LOG_SECONDS = 30.0
PHOTO = Path(__file__).parent.parent / "models" / "photos" / "astronaut.jpg"


@dataclass(frozen=True)
class PredictOptions:
    """The arguments of ``lfpose predict``; see its help."""

    source: str
    model: str
    backend: str
    precision: str
    detector: str | None
    boxes: str | None
    save: Path | None
    json: Path | None
    threads: int | None
    keep_going: bool


def run_predict(options: PredictOptions) -> None:
    """Find the poses in every frame, show a table a frame, and write what was asked for."""
    boxes = None if options.boxes is None else parse_boxes(options.boxes)
    if boxes is not None and options.detector is not None:
        message = "--boxes and --detector both say where the people are: give one of them"
        raise ValueError(message)
    is_camera = options.source.isdecimal() and not Path(options.source).exists()
    source: str | int = int(options.source) if is_camera else options.source
    check_outputs(options)
    console = plain_console()
    unreadable: list[SourceError] = []
    total, persons = 0, 0
    stopped: Stopped | None = None
    with contextlib.ExitStack() as stack:
        estimator = stack.enter_context(
            PoseEstimator(
                options.model,
                backend=options.backend,
                precision=options.precision,
                detector=options.detector,
                threads=options.threads,
            )
        )
        overlays = stack.enter_context(OverlayWriter(options.save)) if options.save else None
        lines = stack.enter_context(_open_whole(options.json)) if options.json else None
        try:
            for frame in shown(
                frames(source, on_unreadable=unreadable.append if options.keep_going else None)
            ):
                refuse_to_replace(frame, options)
                result = estimator(frame.image, boxes)
                if overlays:
                    overlays.write(frame, result.draw(frame.image))
                if lines:
                    lines.write(_json_line(frame, result))
                if not overlays and not lines:
                    console.print(f"{frame.name}: {len(result)} person(s), {result.timings.total_ms:.1f} ms")
                    for pose_table in joint_tables(result):
                        console.print(pose_table)
                total, persons = total + 1, persons + len(result)
        except Stopped as stop:
            if isinstance(source, str) and "://" not in source:
                raise
            stopped = (
                stop  # a camera or a stream has no end of its own: what was done until now is the result
            )
        backend = estimator.describe()["backend"]
    console.print(f"{total} frame(s), {persons} person(s); {backend}")
    for path in filter(None, (options.save, options.json)):
        if path.exists():
            console.print(f"wrote {path}")
    list_left_out(unreadable)
    if stopped is not None:
        raise stopped
    if unreadable:
        raise typer.Exit(1)


def refuse_to_replace(frame: Frame, options: PredictOptions) -> None:
    """SourceError when an output is the very file that a frame of a folder or glob came from."""
    place = Path(frame.name).resolve()
    for option, path in {"--save": options.save, "--json": options.json}.items():
        if path is not None and path.resolve() == place:
            message = f"{option} {path} is one of the sources: give another path"
            raise SourceError(message)


def shown(source: Iterator[Frame]) -> Iterator[Frame]:
    """The frames, with a progress bar on a terminal and a line now and then in a log."""
    console = plain_console(stderr=True)
    columns = (
        TextColumn("frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        logged_at = monotonic()
        for done, frame in enumerate(source, 1):
            progress.update(task, total=frame.count)
            yield frame
            progress.advance(task)
            if not console.is_terminal and monotonic() - logged_at > _LOG_SECONDS:
                logged_at = monotonic()
                console.print(f"{done} of {frame.count or 'unknown'} frames")


def check_outputs(options: PredictOptions) -> None:
    """Refuse outputs that would replace the source or each other, or that cannot be written.

    Raises:
        SourceError: and nothing was read or written.
    """
    outputs = {"--save": options.save, "--json": options.json}
    taken = {Path(options.source).resolve(): "the source"}
    for option, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if place in taken:
            message = f"{option} {path} is {taken[place]}: give another path"
            raise SourceError(message)
        if place.exists() and not place.is_file() and not (option == "--save" and place.is_dir()):
            message = f"{option} {path} exists and is not a file: give another path"
            raise SourceError(message)
        folder = next(p for p in (place, *place.parents) if p.exists())
        if folder != place and not (folder.is_dir() and os.access(folder, os.W_OK)):
            why = "cannot be written" if folder.is_dir() else "is not a folder"
            message = f"{option} {path}: {folder} {why}"
            raise SourceError(message)
        taken[place] = f"the file of {option} too"


def run_demo(model: str, backend: str, out: Path) -> None:
    """Run a model on the packaged photo, print its joints and write the overlay."""
    console = plain_console()
    with PoseEstimator(model, backend=backend) as estimator:
        frame = next(frames(PHOTO))
        result = estimator(frame.image)
        facts = estimator.describe()
    for table in joint_tables(result):
        console.print(table)
    with OverlayWriter(out) as overlays:
        overlays.write(frame, result.draw(frame.image))
    console.print(
        f"{facts['model']} {facts['version']} on {facts['backend']}: {result.timings.total_ms:.1f} ms"
    )
    console.print("photo: NASA's portrait of astronaut Eileen Collins, public domain")
    console.print(f"wrote {out}")


def joint_tables(result: PoseResult) -> Iterator[Table]:
    """One table a person: joint, x, y, score, presence."""
    for i, pose in enumerate(result):
        table = Table(title=f"person {i}", title_justify="left")
        table.add_column("joint")
        for column in ("x", "y", "score", "presence"):
            table.add_column(column, justify="right")
        for name in result.skeleton.keypoints:
            joint = pose[name]
            style = None if joint.presence >= result.presence_threshold else "dim"
            values = (f"{joint.x:.1f}", f"{joint.y:.1f}", f"{joint.score:.2f}", f"{joint.presence:.2f}")
            table.add_row(name, *values, style=style)
        yield table


def parse_boxes(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``x1,y1,x2,y2;...`` as (N, 4)."""
    try:
        rows = [[float(v) for v in row.split(",")] for row in text.split(";") if row.strip()]
        with np.errstate(over="ignore"):  # infinite, and the estimator says so
            return np.array(rows, np.float32).reshape(max(1, len(rows)), 4)
    except ValueError:
        message = f"--boxes {text!r} must look like x1,y1,x2,y2 or x1,y1,x2,y2;x1,y1,x2,y2"
        raise ValueError(message) from None


class OverlayWriter:
    """Writes overlays as one image, as images into a folder, or as a video, by the path's suffix.

    One image or a video appears when the writer is left without an error; a folder's images one by one,
    each whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind = "" if path.is_dir() else path.suffix.lower()
        self._image: Image | None = None
        self._video: Any = None
        self._file = contextlib.ExitStack()
        self._names: set[str] = set()
        if self._kind not in _IMAGES | VIDEO_SUFFIXES and self._kind:
            message = (
                f"cannot write {path}: suffix {self._kind!r} is neither a colour image's nor a video's; "
                "a folder with a dot in its name must exist"
            )
            raise SourceError(message)

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.release()
        self._file.__exit__(kind, value, trace)
        if self._image is not None and kind is None:
            _write_image(self._path, self._image)

    def write(self, frame: Frame, overlay: Image) -> None:
        """Add one frame's overlay."""
        if self._kind in VIDEO_SUFFIXES:
            self._write_video(overlay, frame.fps or _FPS)
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
        """A file name for a frame's overlay, that no other frame's has."""
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

    def _write_video(self, overlay: Image, fps: float) -> None:
        height, width = overlay.shape[:2]
        if self._video is None:
            temporary = self._file.enter_context(whole_file(self._path))
            codec = "mp4v" if self._kind in (".mp4", ".m4v", ".mov") else "MJPG"
            fourcc = cv2.VideoWriter.fourcc(*codec)
            self._video = cv2.VideoWriter(str(temporary), fourcc, fps, (width, height))
            self._size = (width, height)
            if not self._video.isOpened():
                message = (
                    f"cannot write {self._path}: OpenCV writes no {self._kind} of {width}x{height} frames "
                    "here; try .avi, or a folder"
                )
                raise SourceError(message)
        if (width, height) != self._size:
            message = f"cannot write {self._path}: frames differ in size ({self._size} and {(width, height)})"
            raise SourceError(message)
        self._video.write(overlay)


def _write_image(path: Path, image: Image) -> None:
    good, data = cv2.imencode(path.suffix, image)
    if not good:
        message = f"cannot encode {path}"
        raise SourceError(message)
    write_bytes_whole(path, data.tobytes())


@contextlib.contextmanager
def _open_whole(path: Path) -> Iterator[IO[str]]:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def _json_line(frame: Frame, result: PoseResult) -> str:
    import json

    entry = {"source": frame.name, "index": frame.index, "time_s": frame.time_s, **result.to_dict()}
    return json.dumps(entry) + "\n"
