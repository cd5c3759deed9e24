"""``lfpose predict`` and ``lfpose demo``."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

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

from lfpose_edge.arguments import given_path
from lfpose_edge.cli.errors import Stopped, list_left_out, stops_held
from lfpose_edge.cli.overlays import OverlayWriter
from lfpose_edge.console import plain_console
from lfpose_edge.errors import LFPoseError, SourceError
from lfpose_edge.estimator import PoseEstimator
from lfpose_edge.files import whole_file
from lfpose_edge.results import PoseResult
from lfpose_edge.sources import Frame, frames, local_path
from lfpose_edge.tracking import PoseTracker

_LOG_SECONDS = 30.0
PHOTO = Path(__file__).parent.parent / "models" / "photos" / "astronaut.jpg"


@dataclass(frozen=True)
class PredictOptions:
    """The arguments of ``lfpose predict``; see its help."""

    source: Sequence[str]
    model: str
    backend: str
    precision: str
    device: str
    detector: str | None
    boxes: str | None
    save: str | None
    json: str | None
    threads: int | None
    keep_going: bool
    track: bool


def run_predict(options: PredictOptions) -> None:
    """Find the poses in every frame, show the results, and write what was asked for."""
    boxes = None if options.boxes is None else parse_boxes(options.boxes)
    if boxes is not None and options.detector is not None:
        message = "--boxes and --detector both say where the people are: give one of them"
        raise ValueError(message)
    source = _one_source(options.source)
    # A camera or a stream has no end of its own.
    is_live = isinstance(source, int) or (isinstance(source, str) and "://" in source)
    outputs = check_outputs(options)
    save, json = outputs.get("--save"), outputs.get("--json")
    to_stdout = options.json == "-"
    console = plain_console(stderr=to_stdout)
    quiet = bool(outputs) or to_stdout
    left_out: list[SourceError] = []
    leave_out = left_out.append if options.keep_going else None
    total, poses, people = 0, 0, set[int]()
    ended: Stopped | LFPoseError | OSError | None = None
    with contextlib.ExitStack() as held, contextlib.ExitStack() as stack:
        estimator = stack.enter_context(
            PoseEstimator(
                options.model,
                backend=options.backend,
                precision=options.precision,
                device=options.device,
                detector=options.detector,
                threads=options.threads,
            )
        )
        overlays = stack.enter_context(OverlayWriter(save)) if save else None
        write_line = stack.enter_context(_open_lines(json)) if json else _print_line if to_stdout else None
        tracker = PoseTracker() if options.track else None
        try:
            found = frames(source, on_unreadable=leave_out)
            for frame in shown(found, bar=quiet or not console.is_terminal):
                refuse_to_replace(frame, outputs)
                try:
                    result = estimator(frame.image, boxes)
                except ValueError as error:  # a box outside this image
                    refused = SourceError(f"{frame.name}: {error}")
                    if leave_out is None:
                        raise refused from error
                    leave_out(refused)
                    continue
                if tracker:
                    result = tracker(result, frame.time_s)
                if overlays:
                    overlays.write(frame, result.draw(frame.image))
                if write_line:
                    write_line(_json_line(frame, result))
                if not quiet:
                    console.print(f"{frame.name}: {_people_of(result)}, {result.timings.total_ms:.1f} ms")
                    for pose_table in joint_tables(result) if frame.time_s is None else ():
                        console.print(pose_table)
                total, poses = total + 1, poses + len(result)
                people.update(() if result.track_ids is None else result.track_ids.tolist())
        except (Stopped, LFPoseError, OSError) as error:
            if not (is_live and total):
                lost = [path.name for path in outputs.values() if not path.is_dir()]
                if lost and total and isinstance(error, SourceError):
                    message = f"{error}; {' and '.join(lost)} would be of a part alone: not written"
                    if not options.keep_going:
                        message += " (--keep-going leaves out what cannot be read)"
                    raise SourceError(message) from error
                raise
            ended = error  # what was done so far is the result
        held.enter_context(stops_held())  # until the files are whole
        backend = estimator.describe()["backend"]
    followed = f" of {len(people)} people" if tracker else ""
    console.print(f"{total} frame(s), {poses} pose(s){followed}; {backend}")
    if boxes is None and options.detector is None:
        console.print(
            "every frame was taken as one person; --detector yolox-nano finds the people of a scene"
        )
    for path in outputs.values():
        if path.exists():
            console.print(f"wrote {path}")
    list_left_out(left_out)
    shortened = overlays.shortened if overlays else None
    if shortened:
        typer.echo(f"error: {shortened}", err=True)
    if ended is not None:
        raise ended
    if left_out or shortened:
        raise typer.Exit(1)


def _one_source(given: Sequence[str]) -> str | int | list[Path]:
    """The argument of :func:`frames`: a camera's number, a path, a URL, or several files from a shell."""
    if len(given) > 1:
        return [Path(local_path(text)) for text in given]
    (text,) = given
    is_camera = text.isdecimal() and not Path(text).exists()
    return int(text) if is_camera else local_path(text)


def refuse_to_replace(frame: Frame, outputs: dict[str, Path]) -> None:
    """Raise SourceError if an output is the very file that a frame of a folder or glob came from."""
    place = Path(frame.name).resolve()
    for option, path in outputs.items():
        if path.resolve() == place:
            message = f"{option} {path} is one of the sources: give another path"
            raise SourceError(message)


def shown(source: Iterator[Frame], *, bar: bool = True) -> Iterator[Frame]:
    """Yield the frames, with a progress bar on a terminal and an occasional line in a log.

    Set ``bar`` to False if results are printed to the terminal meanwhile; it then shows no bar.
    """
    console = plain_console(stderr=True)
    columns = (
        TextColumn("frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not (bar and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=None)
        logged_at = monotonic()
        for done, frame in enumerate(source, 1):
            progress.update(task, total=frame.count)
            yield frame
            progress.advance(task)
            if not console.is_terminal and monotonic() - logged_at > _LOG_SECONDS:
                logged_at = monotonic()
                console.print(f"{done} of {frame.count or 'unknown'} frames")


def check_outputs(options: PredictOptions) -> dict[str, Path]:
    """The requested output paths, by option.

    Raises:
        ValueError, SourceError: a path is empty, would replace the source or another output, or cannot be
            written; nothing has been read or written at that point.
    """
    if options.json == "-" and sys.stdout is None:
        message = "--json -: the standard output is closed"
        raise SourceError(message)
    given = {"--save": options.save, "--json": None if options.json == "-" else options.json}
    outputs = {option: given_path(option, text) for option, text in given.items() if text is not None}
    taken = {Path(local_path(text)).resolve(): "the source" for text in options.source}
    for option, path in outputs.items():
        place = path.resolve()
        if place in taken:
            message = f"{option} {path} is {taken[place]}: give another path"
            raise SourceError(message)
        if place.exists() and not place.is_file() and not (option == "--save" and place.is_dir()):
            message = f"{option} {path} exists and is not a file: give another path"
            raise SourceError(message)
        if place.is_file() and not os.access(place, os.W_OK):
            message = f"{option} {path} is write-protected: give another path"
            raise SourceError(message)
        folder = next(p for p in (place, *place.parents) if p.exists())
        if folder != place and not (folder.is_dir() and os.access(folder, os.W_OK)):
            why = "cannot be written" if folder.is_dir() else "is not a folder"
            message = f"{option} {path}: {folder} {why}"
            raise SourceError(message)
        taken[place] = f"the file of {option} too"
    return outputs


def run_demo(model: str, backend: str, device: str, out: str) -> None:
    """Run a model on the packaged photo, print its joints and write the overlay."""
    path = given_path("--out", out)
    console = plain_console()
    with PoseEstimator(model, backend=backend, device=device) as estimator:
        frame = next(frames(PHOTO))
        result = estimator(frame.image)
        facts = estimator.describe()
    for table in joint_tables(result):
        console.print(table)
    with OverlayWriter(path) as overlays:
        overlays.write(frame, result.draw(frame.image))
    console.print(
        f"{facts['model']} {facts['version']} on {facts['backend']}: {result.timings.total_ms:.1f} ms"
    )
    console.print("photo: NASA's portrait of astronaut Eileen Collins, public domain")
    console.print(f"wrote {path}")


def _people_of(result: PoseResult) -> str:
    """The number of people and, if they are tracked, their track ids."""
    who = [] if result.track_ids is None else result.track_ids.tolist()
    return f"{len(result)} person(s)" + (f": {', '.join(map(str, who))}" if who else "")


def joint_tables(result: PoseResult) -> Iterator[Table]:
    """One table per person: joint, x, y, score, presence."""
    for i, pose in enumerate(result):
        number = i if pose.track_id is None else pose.track_id
        table = Table(title=f"person {number}", title_justify="left")
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
    """Parse ``x1,y1,x2,y2;...`` as (N, 4)."""
    try:
        rows = [[float(v) for v in row.split(",")] for row in text.split(";") if row.strip()]
        with np.errstate(over="ignore"):  # the estimator refuses infinite boxes
            return np.array(rows, np.float32).reshape(max(1, len(rows)), 4)
    except ValueError:
        message = f"--boxes {text!r} must look like x1,y1,x2,y2 or x1,y1,x2,y2;x1,y1,x2,y2"
        raise ValueError(message) from None


@contextlib.contextmanager
def _open_lines(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes whole lines; if the disk is full, it removes the part before raising."""
    with whole_file(path) as temporary, temporary.open("wb", buffering=0) as file:

        def write(line: str) -> None:
            data, start = line.encode(), file.tell()
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except OSError:
                file.truncate(start)
                raise

        yield write


def _print_line(line: str) -> None:
    """Write to the standard output and flush it, so that a reader gets the line at once."""
    sys.stdout.write(line)
    sys.stdout.flush()


def _json_line(frame: Frame, result: PoseResult) -> str:
    import json

    entry = {"source": frame.name, "index": frame.index, "time_s": frame.time_s, **result.to_dict()}
    return json.dumps(entry) + "\n"
