"""``lfpose adapt``."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lfpose_edge.cli import training
from lfpose_edge.cli.errors import Stopped, list_left_out
from lfpose_edge.cli.people import find_people, image_files, opened
from lfpose_edge.coco import read_coco_boxes
from lfpose_edge.coco_writing import coco_persons_tree, person_annotation
from lfpose_edge.console import plain_console
from lfpose_edge.errors import (
    AccuracyGateError,
    BundleError,
    RecipeError,
    SourceError,
    TrainingDiverged,
)
from lfpose_edge.files import require_writable, write_text_whole
from lfpose_edge.persons import PersonTable, data_root, joined
from lfpose_edge.skeleton import Skeleton

if TYPE_CHECKING:
    from lfpose_edge.metrics.bootstrap import Interval
    from lfpose_edge.train.recipe import Recipe

HELD_OUT = 5  # the last 1/HELD_OUT of the images is kept for the verdict
LEAST_PEOPLE, LEAST_HELD_OUT = 40, 10
LEAST_SEEN = 1.0  # pixels of each side of a box that must lie in the image


def run_adapt(
    model: str,
    frames: Path,
    out: Path,
    detector: str | None,
    boxes: Path | None,
    data: Path | None,
    epochs: int,
    device: str,
    *,
    keep_going: bool = False,
    any_way_up: bool = False,
) -> None:
    """Find the people, adapt to them, judge the result, and write a bundle if the verdict is good."""
    from lfpose_edge.export import export_bundle, require_extra
    from lfpose_edge.train.adapt import adaptation_recipe, judge
    from lfpose_edge.train.loop import train
    from lfpose_edge.train.start import trained_network
    from lfpose_edge.train.training_set import read_persons

    checkpoint = _checkpoint(model)
    require_extra()
    console = plain_console(stderr=True)
    old, source = trained_network(checkpoint, training.require_device(device))
    if not source.data.source:
        message = f"{checkpoint} was trained on no locations: there is no source to adapt from"
        raise RecipeError(message)
    if source.data.val is None:
        message = (
            f"{checkpoint} was trained without validation people (data.val), and an adaptation is judged by "
            "them too: train with some"
        )
        raise RecipeError(message)
    if any_way_up and len(set(source.input_size)) > 1:
        size = "x".join(map(str, source.input_size))
        message = (
            f"{checkpoint} takes crops of {size}, and only square ones are turned: leave out --any-way-up"
        )
        raise RecipeError(message)
    bundle = out / "bundle"
    if bundle.exists():
        message = f"{bundle} is there already: give another --out"
        raise BundleError(message)
    require_writable(out / "target.json")

    root = data_root(data)
    # Read the source's data first, so that any error in it comes before the long search.
    known = joined([read_persons(part, source, root) for part in source.data.source])
    validation = read_persons(source.data.val, source, root)
    asked = asked_for(frames, detector, boxes)
    if (out / "target.json").is_file() and (out / "held-out.json").is_file():
        require_same_people(out, asked)
        console.print(f"goes on with the people of {out / 'target.json'}")
    else:
        unreadable: list[SourceError] = []
        on_unreadable = unreadable.append if keep_going else None
        try:
            if boxes is not None:
                found = read_boxes(boxes, frames, console, on_unreadable=on_unreadable)
            else:
                found = find_people(frames, detector, console, on_unreadable=on_unreadable)
        finally:
            list_left_out(unreadable)
        write_halves({**found, "info": {**found.get("info", {}), **asked}}, out)
    held_out = read_coco_boxes(out / "held-out.json", frames, source.joints)
    # Absolute paths: the run can be continued from any folder, and an export leaves their folders out.
    start, target, images = (path.resolve() for path in (checkpoint, out / "target.json", frames))
    plan = adaptation_recipe(source, start, target, images, epochs, any_way_up=any_way_up)
    try:
        run = train(plan, data_root=root, out=out / "run", accelerator=device, validate_every=epochs)
    except TrainingDiverged as error:
        what = f"{error.what}; {checkpoint} is as it was"
        raise TrainingDiverged(what, _slower(plan, root, out, device)) from error
    if not run.finished:
        raise Stopped(run.stopped_by)
    if not run.steps:
        console.print(f"trained before, and nothing is done anew: {run.checkpoint}")
    how = (source.input_size, source.data.padding)
    verdict = judge(old, run.network, held_out, known, validation, *how)
    console.print(verdict_table(verdict, len(held_out)))
    faults = verdict.faults()
    if faults:
        message = (
            f"the adapted model is not published, for {'; '.join(faults)}; {checkpoint} is as it was, and "
            f"the adapted checkpoint is {run.checkpoint}"
        )
        raise AccuracyGateError(message)
    made = export_bundle(run.checkpoint, bundle)
    console.print(f"wrote {made.path}")


def _slower(plan: Recipe, root: Path, out: Path, device: str) -> str:
    """Advice for an adaptation that diverged; writes the recipe that the advised command needs."""
    recipe = out / "recipe.yaml"
    write_text_whole(recipe, plan.model_dump_json(indent=1) + "\n")
    rates = {name: getattr(plan.optimizer, name) / 2 for name in ("lr_head", "lr_backbone")}
    changes = [f"optimizer.{name}={rate:.2g}" for name, rate in rates.items()]
    where = ["--data", str(root), "--out", str(out / "slower"), "--device", device]
    command = shlex.join(["lfpose", "train", str(recipe), *changes, *where])
    return f"half the learning rates may do, {command}"


def _checkpoint(model: str) -> Path:
    path = Path(model)
    if path.suffix != ".pt":
        message = (
            f"{model} is no checkpoint: an adaptation goes on training, from the last.pt of lfpose train; a "
            "bundle holds what was exported from one"
        )
        raise BundleError(message)
    if not path.is_file():
        message = f"no checkpoint at {path}"
        raise BundleError(message)
    return path


def asked_for(frames: Path, detector: str | None, boxes: Path | None) -> dict[str, str | None]:
    """What decides who the people are: a folder's file names and sizes and a detector, or a file of boxes."""
    if boxes is None:
        files = ((file.relative_to(frames), file.stat().st_size) for file in image_files(frames))
        names = "\n".join(f"{name.as_posix()} {size}" for name, size in files)
        return {"frames": _as_it_is(frames, names.encode()), "boxes": None, "detector": detector}
    return {"frames": str(frames.resolve()), "boxes": _as_it_is(boxes, boxes.read_bytes()), "detector": None}


def _as_it_is(path: Path, content: bytes) -> str:
    return f"{path.resolve()}, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def require_same_people(out: Path, asked: dict[str, str | None]) -> None:
    """Raise SourceError if an earlier run's people come from other images or boxes, or another detector."""
    info = json.loads((out / "target.json").read_text(encoding="utf-8")).get("info", {})
    other = [name for name, value in asked.items() if info.get(name) != value]
    if other:
        message = (
            f"{out} holds the people of other {' and '.join(other)}, or of what was in them then "
            f"({info.get(other[0])}): give another --out, or remove it"
        )
        raise SourceError(message)


def read_boxes(
    boxes: Path,
    frames: Path,
    console: Console,
    *,
    on_unreadable: Callable[[SourceError], None] | None = None,
) -> dict[str, Any]:
    """What :func:`find_people` returns, but from the boxes of a COCO JSON; every image is opened.

    Raises:
        SourceError: the JSON or an image cannot be used, or a box shows less than a pixel of its image.
    """
    table: PersonTable = read_coco_boxes(boxes, frames, Skeleton("box", ("middle",), (), (0.1,)))
    files = list(dict.fromkeys(table.images))
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        message = f"{boxes} names an image that is not there: {missing}"
        raise SourceError(message)
    read = opened(files, "opening the images", console, on_unreadable=on_unreadable)
    sizes = {path: image.shape[1::-1] for path, image in read}
    table = table.chosen([row for row, path in enumerate(table.images) if path in sizes])
    seen = np.clip(table.boxes, 0, [sizes[path] * 2 for path in table.images])
    sides = (seen[:, 2:] - seen[:, :2]).min(axis=1)
    if sides.min() < LEAST_SEEN:
        row = int(sides.argmin())
        width, height = sizes[table.images[row]]
        message = (
            f"{boxes}: annotation {table.annotation_ids[row]} shows less than a pixel of "
            f"{table.images[row].name}, which is {width} wide and {height} tall: its box goes from corner "
            f"to corner {table.boxes[row].tolist()}"
        )
        raise SourceError(message)
    ids = {path: number for number, path in enumerate(sizes, 1)}
    annotations = [
        person_annotation(row + 1, ids[path], table.boxes[row]) for row, path in enumerate(table.images)
    ]
    images = [
        {"id": ids[path], "file_name": path.relative_to(frames).as_posix(), "width": width, "height": height}
        for path, (width, height) in sizes.items()
    ]
    return coco_persons_tree(images, annotations)


def write_halves(found: dict[str, Any], out: Path) -> None:
    """Write the people to adapt to, ``target.json``, and those for the verdict, ``held-out.json``.

    The last fifth of the images, by their names, is held out. A camera's frames show the same people as those
    before them, so if every fifth image were held out instead, none of its people would be new.

    Raises:
        SourceError: there are too few people.
    """
    names = sorted(found["images"], key=lambda image: _counted(image["file_name"]))
    last = {image["id"] for image in names[len(names) - len(names) // HELD_OUT :]}
    kept = [a for a in found["annotations"] if a["image_id"] in last]
    rest = [a for a in found["annotations"] if a["image_id"] not in last]
    if len(rest) < LEAST_PEOPLE or len(kept) < LEAST_HELD_OUT:
        message = (
            f"{len(rest)} people to adapt to and {len(kept)} to judge by are too few: {LEAST_PEOPLE} and "
            f"{LEAST_HELD_OUT} are needed; those to judge by are in the last 1/{HELD_OUT} of the images, of "
            f"which there are {len(names)} here and must be {HELD_OUT} or more"
        )
        raise SourceError(message)
    for name, people in (("held-out.json", kept), ("target.json", rest)):
        write_text_whole(out / name, json.dumps({**found, "annotations": people}) + "\n")


def _counted(name: str) -> list[tuple[int, str]]:
    """A sort key that puts frame 2 before frame 10."""
    return [(int(part or 0), part) if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _points(gain: Interval) -> str:
    value, low, high = (100 * part for part in (gain.value, gain.low, gain.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def verdict_table(verdict: Any, people: int) -> Table:
    """A table of before and after; it says so if there are too few people to tell."""
    few = (
        f"{people} people are few to judge by: as many others could have turned the verdict; give more frames"
    )
    table = Table(
        title=f"{people} people of the target that were held out, and the source's validation people",
        caption=few if verdict.is_by_chance() else None,
    )
    for column in ("", "before", "after", "gain, points; in 95 of 100 draws of other people"):
        table.add_column(column, justify="left" if not column else "right")
    gains = {name: gain for name, (gain, _) in verdict.gains().items()}
    rows = {
        "same place in mirrored and slightly turned views": ("agreement", verdict.before, verdict.after),
        "same place in views turned by quarters": ("turned", verdict.before, verdict.after),
        "spread of the joints, of the box": ("spread", verdict.before, verdict.after),
        "mean score": ("score", verdict.before, verdict.after),
    }
    for label, (name, before, after) in rows.items():
        values = (f"{getattr(found, name):.3f}" for found in (before, after))
        table.add_row(label, *values, _points(gains[name]) if name in gains else "")
    source = "source, PCK@0.1 box, in {} BatchNorm statistics"
    table.add_row(source.format("its own"), f"{verdict.source_before:.3f}", f"{verdict.source_after:.3f}")
    table.add_row(source.format("the published"), "", f"{verdict.source_published:.3f}")
    return table
