"""``lfpose data label``, ``crowd`` and ``lspet``: new data sets from old ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.progress import track

from lfpose_edge.cli.errors import list_left_out
from lfpose_edge.cli.tagging import skeleton_named
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.console import plain_console
from lfpose_edge.errors import SourceError


def run_label(
    annotations: Path,
    images: Path,
    teacher: str,
    out: Path,
    *,
    min_score: float,
    upright: bool,
    grows: Sequence[float] | None,
    mirrored: bool,
    keep_going: bool,
) -> None:
    """Label persons with a teacher and print how many joints it was sure of."""
    from lfpose_edge.train.data.pseudo_labels import Views, label_persons, open_teacher

    console = plain_console(stderr=True)
    unusable: list[SourceError] = []
    try:
        made = label_persons(
            annotations,
            images,
            out,
            open_teacher(teacher),
            teacher_name=Path(teacher).name,
            min_score=min_score,
            views=Views(
                quarter_turns=(0,) if upright else Views.quarter_turns,
                grows=tuple(grows or Views.grows),
                mirrored=mirrored,
            ),
            show=lambda persons: track(persons, "persons", console=console, disable=not console.is_terminal),
            on_unusable=unusable.append if keep_going else None,
        )
    finally:
        list_left_out(unusable)
    console.print(
        f"wrote {out}: {made.persons} of {made.asked} persons, {made.joints / made.persons:.1f} joints each"
    )
    if unusable:
        raise typer.Exit(1)


def run_crowd(annotations: Path, images: Path, out: Path, skeleton: str, seed: int) -> None:
    """Write crowds and print how many images each level has."""
    from lfpose_edge.train.data.crowding import alone, write_crowds

    console = plain_console(stderr=True)
    located = read_coco_keypoints(annotations, images, skeleton_named(skeleton))
    persons = alone(located, annotations)
    if others := len(located) - len(persons):
        console.print(f"left out: {others} persons who share their images, as nobody knows who hides whom")
    made = write_crowds(
        persons,
        out,
        seed=seed,
        show=lambda rows: track(rows, "persons", console=console, disable=not console.is_terminal),
    )
    console.print(f"wrote {out}: " + ", ".join(f"{level} {count}" for level, count in made.items()))


def run_lspet(folder: Path, out: Path | None) -> None:
    """Write the parts of Leeds Sports Pose Extended and print how many persons each has."""
    from lfpose_edge.train.data.lspet import write_lspet

    console = plain_console(stderr=True)
    made = write_lspet(
        folder,
        out or folder,
        show=lambda rows: track(rows, "persons", console=console, disable=not console.is_terminal),
    )
    console.print(
        f"wrote {out or folder}: " + ", ".join(f"{part} {made[part]}" for part in ("train", "val", "test"))
    )
