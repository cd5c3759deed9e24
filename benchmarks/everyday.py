"""What pictures of everyday people bring to a model of athletes: unlabelled, or labelled by MoveNet.

    python benchmarks/everyday.py --start athletes    # all rows, seed 0; hours on a CPU
    python benchmarks/everyday.py --compare           # differences between recorded rows, and their intervals
    python benchmarks/everyday.py --list

Needs, below $LFPOSE_DATA, what the recipe ``lfpose_lite`` needs (lspet, stanford40 and its labels in pseudo),
the everyday people to measure on (coco_mini/train.json and images), and a model of athletes alone to start
from, such as the one in the history of this project's repository:

    git archive bf68c59 lfpose_edge/models/lfpose-lite | tar -x --strip-components 2 -C $LFPOSE_DATA
    mv $LFPOSE_DATA/lfpose-lite $LFPOSE_DATA/athletes

Every row continues from it with ``lfpose train``, for about equally many steps, is measured with
``lfpose eval`` on athletes and on everyday people, and is written to benchmarks/results/everyday.json. A row
that is recorded there is not trained again; an interrupted training is resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import print_table
from trainings import COUNTS, LFPOSE, compare, evaluate, folder_of, record_rows, recorded, run, train

from lfpose_edge.persons import data_root

RESULTS = Path(__file__).parent / "results"
RECIPE = "lfpose_lite"
PARTS = ("train", "test")  # of Stanford 40: all are trained on
PLACES = {
    "athletes": ("lspet/test.json", "lspet/images"),
    "everyday people": ("coco_mini/train.json", "coco_mini/images"),
}
ATHLETES = "{annotations: lspet/train.json, images: lspet/images}"
LABELLED = [
    f"{{annotations: pseudo/stanford40-{part}-thunder.json, images: stanford40/images, unlabelled: unknown}}"
    for part in PARTS
]
SHEETS = {part: f"pseudo/stanford40-{part}-unanswered.csv" for part in PARTS}
PICTURES = ", ".join(f"{{sheet: {sheet}, images: stanford40/images}}" for sheet in SHEETS.values())


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        epochs: over the people that it is shown.
        changes: made to the recipe.
        against: rows that it is compared with.
    """

    epochs: int
    changes: tuple[str, ...]
    against: tuple[str, ...] = ()


ROWS = {
    "athletes alone": Row(6, (f"data.train=[{ATHLETES}]",)),
    "and pictures, mean teacher": Row(
        4,
        (f"data.train=[{ATHLETES}]", f"data.tags=[{PICTURES}]", "loss.teacher=1"),
        against=("athletes alone", "and MoveNet's labels"),
    ),
    "and MoveNet's labels": Row(
        4, (f"data.train=[{', '.join([ATHLETES, *LABELLED])}]",), against=("athletes alone",)
    ),
}


def recipe_changes(row: Row, seed: int, size: int, start: Path) -> list[str]:
    """A row as changes to the recipe."""
    stages = f"stages=[{{epochs: {row.epochs}, size: [{size}, {size}]}}]"
    return [f"seed={seed}", f"start_from={start}", stages, *row.changes]


def measure(name: str, seed: int, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Train a row and evaluate it on both kinds of people."""
    out = folder_of(options.runs, options.device, name, options.size, seed)
    trained = train(
        RECIPE, recipe_changes(ROWS[name], seed, options.size, options.start), out, root, options.device
    )
    found = {
        place: evaluate(out / "last.pt", *where, root, options.device) for place, where in PLACES.items()
    }
    kept = ("pck_box", "either_side", "per_joint", *COUNTS)
    return {**trained, **{place: {k: values[k] for k in kept} for place, values in found.items()}}


def make_sheets(root: Path) -> None:
    """Make the unanswered sheets that do not exist yet: their persons are only pictures and boxes."""
    for part, sheet in SHEETS.items():
        if not (root / sheet).is_file():
            boxes = (f"stanford40/{part}.json", "stanford40/images")
            run([LFPOSE, "tags", "make", *boxes, "--regions", "1", "--out", sheet], root)


def main() -> None:
    """Train, measure, write, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=160, help="side of the crops")
    parser.add_argument("--start", type=Path, default=Path("athletes"), help="bundle, below $LFPOSE_DATA")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/everyday"), help="folder of the checkpoints")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json", type=Path, default=RESULTS / "everyday.json")
    parser.add_argument("--compare", action="store_true", help="print differences between rows and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return
    if options.compare:
        known = [row for row in recorded(options.json) if row["size"] == options.size]
        for place in PLACES:
            print(f"== {place}")
            rows = [{**row, **row[place]} for row in known]
            print_table(compare(rows, {name: row.against for name, row in ROWS.items()}))
        return

    root = data_root(None)
    options.start = root / options.start
    make_sheets(root)
    record_rows(
        options.json,
        options.rows,
        options.seeds,
        {"size": options.size},
        options.device,
        lambda name, seed: measure(name, seed, options, root),
    )
    print_table(
        [
            {
                **{k: row[k] for k in ("row", "seed", "minutes")},
                **{place: row[place]["pck_box"] for place in PLACES},
            }
            for row in recorded(options.json)
        ]
    )


if __name__ == "__main__":
    main()
