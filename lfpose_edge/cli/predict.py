"""``lfpose predict`` and ``lfpose demo``."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lfpose_edge.errors import SourceError
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.opencv import cv2
from lfpose_edge.results import PoseResult
from lfpose_edge.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, Image, frames

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


def run_predict(options: PredictOptions) -> None:
    """Find the poses in every frame, show a table a frame, and write what was asked for."""
    boxes = None if options.boxes is None else parse_boxes(options.boxes)
    source: str | int = int(options.source) if options.source.isdecimal() else options.source
    check_outputs(options)
    console = Console(highlight=False)
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
        # The frames come lazily, so how many there are is not known.
        progress = track(frames(source), "frames", total=None, console=Console(stderr=True), transient=True)
        total, persons = 0, 0
        for frame in progress:
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
        console.print(f"{total} frame(s), {persons} person(s); {estimator.describe()['backend']}")
        for path in filter(None, (options.save, options.json)):
            console.print(f"wrote {path}")


def check_outputs(options: PredictOptions) -> None:
    """Refuse outputs that would replace the source, each other, or something that is not a file.

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
        taken[place] = f"the file of {option} too"


def run_demo(model: str, backend: str, out: Path) -> None:
    """Run a model on the packaged photo, print its joints and write the overlay."""
    console = Console(highlight=False)
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
        return np.array(rows, np.float32).reshape(len(rows), 4)
    except ValueError:
        message = f"--boxes {text!r} must look like x1,y1,x2,y2 or x1,y1,x2,y2;x1,y1,x2,y2"
        raise ValueError(message) from None


class OverlayWriter:
    """Writes overlays as one image, as images into a folder, or as a video, by the path's suffix.

    A file appears only when it is whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind = path.suffix.lower()
        self._video: Any = None
        self._temporary: Path | None = None
        self._written = 0
        if self._kind not in IMAGE_SUFFIXES | VIDEO_SUFFIXES and self._kind:
            message = f"cannot write {path}: suffix {self._kind!r} is neither an image's nor a video's"
            raise SourceError(message)

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.release()
        if self._temporary is not None:
            if kind is None:
                self._temporary.replace(self._path)
            else:
                self._temporary.unlink(missing_ok=True)

    def write(self, frame: Frame, overlay: Image) -> None:
        """Add one frame's overlay."""
        if self._kind in VIDEO_SUFFIXES:
            self._write_video(overlay)
        elif self._kind in IMAGE_SUFFIXES:
            if self._written:
                message = (
                    f"{self._path} is one image, but the source has more frames: give a folder or a video"
                )
                raise SourceError(message)
            _write_image(self._path, overlay)
        else:
            stem = Path(frame.name).stem if frame.time_s is None else f"frame_{frame.index:06d}"
            _write_image(self._path / f"{stem}.jpg", overlay)
        self._written += 1

    def _write_video(self, overlay: Image) -> None:
        height, width = overlay.shape[:2]
        if self._video is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = self._path.with_name(f".{self._path.stem}.part{self._kind}")
            codec = "mp4v" if self._kind in (".mp4", ".m4v", ".mov") else "MJPG"
            fourcc = cv2.VideoWriter.fourcc(*codec)
            self._video = cv2.VideoWriter(str(self._temporary), fourcc, 25.0, (width, height))
            self._size = (width, height)
            if not self._video.isOpened():
                message = f"cannot write {self._path}: OpenCV has no encoder for {self._kind} here; try .avi"
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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.tobytes())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _open_whole(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _json_line(frame: Frame, result: PoseResult) -> str:
    import json

    entry = {"source": frame.name, "index": frame.index, "time_s": frame.time_s, **result.to_dict()}
    return json.dumps(entry) + "\n"
