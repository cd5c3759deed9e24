"""What tags are worth: trainings with all, some or no locations, with and without tags, part by part.

    python benchmarks/lfpe.py                     # all rows, seed 0; hours on a CPU
    python benchmarks/lfpe.py --rows 25+tags 25 --seeds 0 1 2
    python benchmarks/lfpe.py --list
    python benchmarks/lfpe.py --compare           # differences between recorded rows, and their intervals

Needs Leeds Sports Pose Extended as COCO JSON below $LFPOSE_DATA: lspet/train.json, test.json, val.json and
images. Makes the question sheets, trains every row with ``lfpose train`` for the same number of steps,
measures it with ``lfpose eval`` on the test images, and writes benchmarks/results/lfpe.json after each.
A row that is recorded there is not trained again; an interrupted training is resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import print_table
from trainings import (
    COUNTS,
    LFPOSE,
    compare,
    evaluate,
    folder_of,
    mean_auc,
    record_rows,
    recorded,
    run,
    train,
)

from lfpose_edge.persons import data_root

RESULTS = Path(__file__).parent / "results"
ANSWERS = {14: 1, 28: 2, 70: 5, 140: 10}  # answers about a person: regions
TEACHER = ("loss.teacher=1",)
HALF = "data.located_share=0.5"  # of the crops; located persons are only a quarter
METHOD = (
    "network.widths=[96, 64, 48]",
    "network.context={}",
    "network.prototypes={}",
    "loss.agreement=0.1",
    "loss.contrast=0.1",
    "loss.concentration=0.01",
    *TEACHER,
)


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        locations: share of the persons that are located.
        answers: number of answers about each other person; 0 for none, None to leave those persons out.
        changes: made to the recipe.
        against: rows that it is compared with.
        mistakes: share of the answers that are wrong.
        hide: share of a crop that is hidden.
    """

    locations: float
    answers: int | None
    changes: tuple[str, ...] = ()
    against: tuple[str, ...] = ("100",)
    mistakes: float = 0.0
    hide: float = 0.0


def without(*parts: str) -> tuple[str, ...]:
    """The method without the changes that begin with any of ``parts``."""
    return tuple(change for change in METHOD if not change.startswith(parts))


def part(*changes: str) -> Row:
    """A quarter of the persons located, answers about the others, and the method as in ``changes``."""
    return Row(0.25, 140, changes, against=("25+tags, whole method",))


ROWS = {
    "100": Row(1.0, None, against=()),
    "25": Row(0.25, None),
    "25+unlabelled": Row(0.25, 0, TEACHER, against=("100", "25")),
    "25+tags": Row(0.25, 140, TEACHER, against=("100", "25", "25+unlabelled", "25+unlabelled, half located")),
    "25+unlabelled, half located": Row(0.25, 0, (*TEACHER, HALF), against=("100", "25", "25+unlabelled")),
    "25+tags, half located": Row(
        0.25, 140, (*TEACHER, HALF), against=("100", "25", "25+unlabelled, half located", "25+tags")
    ),
    "5+tags": Row(0.05, 140, TEACHER),
    "1+tags": Row(0.01, 140, TEACHER),
    **{f"0+{answers} answers": Row(0, answers, TEACHER) for answers in ANSWERS},
    "0+14 answers, equivariance": Row(0, 14, (*TEACHER, "loss.equivariance=1"), against=("0+14 answers",)),
    "0+14 answers, whole method": Row(0, 14, (*METHOD, "loss.equivariance=1"), against=("0+14 answers",)),
    "0+14 answers, parts hidden": Row(0, 14, TEACHER, against=("0+14 answers",), hide=0.5),
    "0+14 answers, read twice": Row(
        0, 14, (*TEACHER, "network.erase=0.7", "loss.coarse=1"), against=("0+14 answers",)
    ),
    "0+14 answers, joints apart": Row(0, 14, (*TEACHER, "loss.separation=1"), against=("0+14 answers",)),
    "0+140 answers, 5 % wrong": Row(0, 140, TEACHER, against=("0+140 answers",), mistakes=0.05),
    "0+140 answers, no teacher": Row(0, 140, against=("0+140 answers",)),
    "25+tags, answers alone": Row(0.25, 140, against=("25+tags",)),
    "25+tags, whole method": Row(0.25, 140, METHOD, against=("100", "25+tags")),
    "25+tags, no teacher": part(*without("loss.teacher")),
    "25+tags, no prototypes": part(*without("network.prototypes", "loss.contrast")),
    "25+tags, no relation": part(*METHOD, "network.prototypes.layers=0"),
    "25+tags, no memory": part(*without("loss.contrast"), "network.prototypes.memory=false"),
    "25+tags, no guidance": part(*METHOD, "network.context.guided=false"),
    "25+tags, single scale": part(*METHOD, "network.context.strides=[16]"),
    "25+tags, no agreement": part(*without("loss.agreement")),
    "25+tags, no contrast": part(*without("loss.contrast")),
    "25+tags, no concentration": part(*without("loss.concentration")),
    "25+tags, with equivariance": part(*METHOD, "loss.equivariance=1"),
    "25+tags, no balance": part(*METHOD, "loss.tag_balance=false"),
}


def recipe_changes(row: Row, seed: int, size: int, epochs: int) -> list[str]:
    """A row as changes to the recipe, with as many steps as ``epochs`` over all persons have."""
    located = "[{annotations: lspet/train.json, images: lspet/images}]"
    tags = f"[{{sheet: {sheet(row.answers or 0, row.mistakes)}, images: lspet/images}}]"
    rounds = epochs if row.answers is not None else round(epochs / row.locations)
    augment = f"{{rotation_deg: 15, scale: 0.15, cutout: 0, hide: {row.hide}}}"
    return [
        f"seed={seed}",
        f"data.train={located if row.locations else []}",
        f"data.locations={row.locations}",
        f"data.tags={tags if row.answers is not None else []}",
        f"stages=[{{epochs: {rounds}, size: [{size}, {size}], augment: {augment}}}]",
        *row.changes,
    ]


def sheet(answers: int, mistakes: float = 0.0) -> str:
    """Path of the sheet with so many answers about a person, relative to the data root."""
    return f"lspet/answers-{answers}-{mistakes}-wrong.csv" if mistakes else f"lspet/answers-{answers}.csv"


def make_sheet(row: Row, root: Path) -> None:
    """Make the sheet of a row, unanswered or answered, if it does not exist yet."""
    if row.answers is None or (root / sheet(row.answers, row.mistakes)).is_file():
        return
    truth = ("lspet/train.json", "lspet/images")
    out = sheet(row.answers, row.mistakes)
    questions = f"lspet/questions-{row.answers}.csv" if row.answers else out
    regions = str(ANSWERS.get(row.answers, 1))
    run([LFPOSE, "tags", "make", *truth, "--regions", regions, "--out", questions], root)
    if row.answers:
        wrong = ("--mistakes", str(row.mistakes))
        run([LFPOSE, "tags", "simulate", questions, *truth, *wrong, "--out", out], root)


def measure(row: Row, seed: int, options: argparse.Namespace, out: Path, root: Path) -> dict[str, Any]:
    """Train a row and evaluate it on the test images."""
    changes = recipe_changes(row, seed, options.size, options.epochs)
    trained = train("location_free", changes, out, root, options.device)
    measured = evaluate(out / "last.pt", "lspet/test.json", "lspet/images", root, options.device)
    del measured["oks"]  # at these sizes AP75 is noise
    return {**measured, "presence_auc": mean_auc(measured), **trained}


def main() -> None:
    """Train, measure, write, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=96, help="side of the crops")
    parser.add_argument("--epochs", type=int, default=10, help="over everybody; fewer persons, more epochs")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/lfpe"), help="folder of the checkpoints")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json", type=Path, default=RESULTS / "lfpe.json")
    parser.add_argument("--compare", action="store_true", help="print differences between rows and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return
    same = {"size": options.size, "epochs": options.epochs}
    if options.compare:
        rows = [row for row in recorded(options.json) if same.items() <= row.items()]
        print_table(compare(rows, {name: row.against for name, row in ROWS.items()}))
        return

    root = data_root(None)

    def measured(name: str, seed: int) -> dict[str, Any]:
        make_sheet(ROWS[name], root)
        out = folder_of(options.runs, options.device, name, options.size, options.epochs, seed)
        return measure(ROWS[name], seed, options, out, root)

    record_rows(options.json, options.rows, options.seeds, same, options.device, measured)
    hidden = (*COUNTS, "per_joint", "lines", "lines_either_side", "training", "commit")
    print_table([{k: v for k, v in row.items() if k not in hidden} for row in recorded(options.json)])


if __name__ == "__main__":
    main()
