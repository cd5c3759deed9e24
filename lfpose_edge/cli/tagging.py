"""``lfpose tags``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track
from rich.table import Table

from lfpose_edge.cli.errors import require_no_input
from lfpose_edge.coco import read_coco_boxes, read_coco_keypoints
from lfpose_edge.console import plain_console
from lfpose_edge.errors import RecipeError, SourceError, did_you_mean
from lfpose_edge.files import require_writable
from lfpose_edge.metrics.accuracy import measure
from lfpose_edge.skeleton import SKELETONS, Skeleton

if TYPE_CHECKING:
    from lfpose_edge.train.data.tags import Tags


def run_make(annotations: Path, images: Path, out: Path, skeleton: str, regions: int, seed: int) -> None:
    """Write the questions about the persons of a COCO JSON."""
    from lfpose_edge.train.data.tags import make_questions, write_tags

    require_writable(out)
    require_no_input(out, annotations)
    _require_no_answers(out)
    persons = read_coco_boxes(annotations, images, skeleton_named(skeleton))
    missing = next((path for path in persons.images if not path.is_file()), None)
    if missing is not None:
        message = f"{annotations} names an image that is not there: {missing}"
        raise SourceError(message)
    tags = make_questions(persons, images, regions, seed)
    write_tags(out, tags)
    page = ["lfpose", "tags", "page", str(out), str(images), "--out", "page.html", "--skeleton", skeleton]
    plain_console(stderr=True).print(
        f"wrote {out}: {len(persons)} persons, {regions * len(persons.skeleton)} questions each\n"
        f"next, for a page to answer them on: {shlex.join(page)}"
    )


def _require_no_answers(out: Path) -> None:
    """Raise SourceError if the file exists and is not an unanswered sheet: it may hold somebody's work."""
    from lfpose_edge.train.data.tags import PLACE, sheet_cells

    if not out.exists():
        return
    try:
        answered = any(row[name] for row in sheet_cells(out) for name in row if name not in PLACE)
        what = "holds answers"
    except (SourceError, TypeError):
        answered, what = True, "is no question sheet"
    if answered:
        message = f"{out} is there already and {what}: give another --out, or remove it"
        raise SourceError(message)


def run_page(sheet: Path, images: Path, out: Path, skeleton: str) -> None:
    """Write the page on which a sheet is answered."""
    from lfpose_edge.train.data.tag_page import write_page
    from lfpose_edge.train.data.tags import read_tags

    require_writable(out)
    require_no_input(out, sheet)
    tags = read_tags(sheet, skeleton_named(skeleton))
    name = f"{sheet.stem.removesuffix('-answered')}-answered.csv"
    console = plain_console(stderr=True)
    write_page(
        out,
        tags,
        images,
        name,
        show=lambda files: track(files, "images", console=console, disable=not console.is_terminal),
    )
    console.print(f"wrote {out}: {len(tags)} regions of {len(tags.rows_by_person())} persons")
    console.print(f"Open it in a browser, answer, and save {name}. The images stay where they are.")


def run_simulate(
    sheet: Path, annotations: Path, images: Path, out: Path, mistakes: float, seed: int, skeleton: str
) -> None:
    """Answer a sheet from located joints and show how often each joint is seen."""
    from lfpose_edge.train.data.tags import (
        located_rows,
        places_left,
        read_tags,
        simulate_answers,
        write_tags,
    )

    require_writable(out)
    require_no_input(out, sheet, annotations)
    _require_no_answers(out)
    joints = skeleton_named(skeleton)
    persons = read_coco_keypoints(annotations, images, joints)
    tags = simulate_answers(read_tags(sheet, joints), persons, mistakes=mistakes, seed=seed)
    write_tags(out, tags)
    console = plain_console(stderr=True)
    console.print(_rates(tags))
    count = len(tags.rows_by_person())
    console.print(f"wrote {out}: {tags.given} answers about {count} persons, {tags.given / count:.1f} each")
    rows = located_rows(tags, persons)[[rows[0] for rows in tags.rows_by_person()]]
    if (rows < 0).any():
        console.print(f"{(rows < 0).sum()} of them have no located joint: nothing is answered about them")
    asked = persons.chosen(rows[rows >= 0].tolist())
    left, middle = (values[rows >= 0] for values in places_left(tags))
    area, right = np.median(left[asked.labelled]), measure(middle, asked).pck_box.mean
    console.print(
        f"They leave a joint {area:.1%} of its box (median). The middle of that is right by PCK@0.1 box for "
        f"{right:.1%} of the limb joints."
    )


def _rates(tags: Tags) -> Table:
    table = Table(title="how often a joint can be seen in a region")
    table.add_column("joint")
    table.add_column("yes", justify="right")
    for joint, rate in zip(tags.skeleton.keypoints, tags.rates().tolist(), strict=True):
        table.add_row(joint, f"{rate:.1%}")
    return table


def skeleton_named(name: str) -> Skeleton:
    if name not in SKELETONS:
        message = f"unknown skeleton {name!r}; {did_you_mean(name, SKELETONS)}"
        raise RecipeError(message)
    return SKELETONS[name]
