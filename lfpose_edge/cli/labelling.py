"""``lfpose data label``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track


def run_label(
    annotations: Path,
    images: Path,
    teacher: str,
    out: Path,
    *,
    least_score: float,
    upright: bool,
    grows: Sequence[float] | None,
    mirrored: bool,
) -> None:
    """Label persons by a teacher and say how many joints it was sure of."""
    from lfpose_edge.train.data.pseudo_labels import Views, label_persons, open_teacher

    console = Console(stderr=True, highlight=False, markup=False)
    made = label_persons(
        annotations,
        images,
        out,
        open_teacher(teacher),
        teacher_name=Path(teacher).name,
        least_score=least_score,
        views=Views(
            quarter_turns=(0,) if upright else Views.quarter_turns,
            grows=tuple(grows or Views.grows),
            mirrored=mirrored,
        ),
        show=lambda persons: track(persons, "persons", console=console, disable=not console.is_terminal),
    )
    console.print(
        f"wrote {out}: {made.persons} of {made.asked} persons, {made.joints / made.persons:.1f} joints each"
    )
