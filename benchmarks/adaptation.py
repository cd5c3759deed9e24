"""What adapting to a domain without labels recovers: source alone, mean teacher, each module, all, oracle.

    python benchmarks/adaptation.py                       # all rows of two pairs, seed 0; hours on a CPU
    python benchmarks/adaptation.py --pairs camera --rows "mean teacher" all --seeds 0 1 2
    python benchmarks/adaptation.py --compare             # what is recorded: differences, recovered gaps

Needs Leeds Sports Pose Extended as COCO JSON below $LFPOSE_DATA: lspet/train.json, test.json and images, and
for the pair ``coco`` a COCO-keypoints JSON, coco/train.json, with images. Makes the domains there, once:

    camera   half of the people as they are; the other half through a poor camera
    people   those who stand upright; those who lie or are upside down
    coco     athletes (all of LSPET's); everyday people (COCO's)

A source is trained once a pair and seed; every adaptation starts from it. No location of a target is read but
by the oracle. Every row is measured on target people that nobody has trained on, and on the source's;
benchmarks/results/adaptation.json is written after each. A row that is there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import commit, print_table, write
from trainings import COUNTS, compare, evaluate, recorded, train

from lfpose_edge.persons import PersonTable, data_root, read_coco_keypoints
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.domains import Camera, by_posture, halves, through_camera, write_persons

RESULTS = Path(__file__).parent / "results"
RECIPE = "adapt"
SEED = 0  # of the domains; the trainings have their own
TEACHER = ("loss.teacher=1",)
ROWS: dict[str, tuple[str, ...]] = {
    "source only": (),
    "mean teacher": TEACHER,
    "mean teacher, IHTA": (*TEACHER, "adapt={topology: 0.1}"),
    "mean teacher, CAFA": (*TEACHER, "adapt={features: 0.05}"),
    "mean teacher, CAFA without BSAM": (*TEACHER, "adapt={features: 0.05, attention: false}"),
    "all": (*TEACHER, "adapt={topology: 0.1, features: 0.05}"),
    "oracle": (),
}
AGAINST = {
    name: tuple(other for other in ("source only", "mean teacher", "oracle") if other != name)
    for name in ROWS
}


@dataclass(frozen=True)
class Domain:
    """Annotations and images, relative to the data root."""

    annotations: str
    images: str

    def entry(self) -> str:
        """As a recipe has it."""
        return f"{{annotations: {self.annotations}, images: {self.images}}}"


@dataclass(frozen=True)
class Pair:
    """A source and a target, each to train on and to measure on."""

    source: Domain
    target: Domain
    source_test: Domain
    target_test: Domain


def make_pair(name: str, root: Path) -> Pair:
    """The domains of a pair, made where they are not there yet."""
    folder = root / "domains" / name
    images = "lspet/images"
    sides = {}
    for part in ("train", "test"):
        for side in ("source", "target"):
            own = side == "target" and name == "camera"
            base = f"domains/{name}/{part}-{side}"
            sides[part, side] = Domain(
                f"{base}/annotations.json" if own else f"{base}.json", f"{base}/images" if own else images
            )
    if name == "coco":
        everyday = Domain("coco/train.json", "coco/images")
        return Pair(Domain("lspet/train.json", images), everyday, Domain("lspet/test.json", images), everyday)
    for part in ("train", "test"):
        if (root / sides[part, "target"].annotations).is_file():
            continue
        persons = read_coco_keypoints(root / f"lspet/{part}.json", root / images, LSP14)
        folder.mkdir(parents=True, exist_ok=True)
        source, target = _split(name, persons)
        write_persons(source, root / sides[part, "source"].annotations, root / images)
        if name == "camera":
            through_camera(target, Camera(), folder / f"{part}-target", seed=SEED)
        else:
            write_persons(target, root / sides[part, "target"].annotations, root / images)
    return Pair(
        sides["train", "source"], sides["train", "target"], sides["test", "source"], sides["test", "target"]
    )


def _split(name: str, persons: PersonTable) -> tuple[PersonTable, PersonTable]:
    return halves(persons, SEED) if name == "camera" else by_posture(persons)


def changes_of(name: str, pair: Pair, source: Path, options: argparse.Namespace) -> list[str]:
    """A row in the words of the recipe."""
    epochs = options.epochs if name in ("source only", "oracle") else options.adapt_epochs
    located = pair.target if name == "oracle" else pair.source
    adapts = name not in ("source only", "oracle")
    return [
        f"data.train={located.entry()}",
        f"data.target={pair.target.entry() if adapts else '[]'}",
        f"data.val={pair.source_test.entry()}",
        f"stages=[{{epochs: {epochs}, size: [{options.size}, {options.size}]}}]",
        *(
            (f"start_from={source}", "optimizer.lr_head=0.0004", "optimizer.lr_backbone=0.0002")
            if adapts
            else ()
        ),
        *ROWS[name],
    ]


def measure(name: str, pair: Pair, seed: int, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """Train a row and evaluate it on both domains' test people."""
    root = data_root(None)
    source = runs / "source-only" / "last.pt"
    out = runs / "-".join(name.replace(",", "").split())
    changes = [f"seed={seed}", *changes_of(name, pair, source, options)]
    trained = train(RECIPE, changes, out, root, options.device)
    found = {
        place: evaluate(out / "last.pt", domain.annotations, domain.images, root)
        for place, domain in (("target", pair.target_test), ("source", pair.source_test))
    }
    kept = ("pck_box", "per_joint", *COUNTS)
    return {**trained, **{place: {k: values[k] for k in kept} for place, values in found.items()}}


def recovered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """PCK on target people, the mean over seeds, and the part of the gap between source and oracle."""
    means = {}
    for name in ROWS:
        values = [row["target"]["pck_box"] for row in rows if row["row"] == name]
        if values:
            means[name] = (sum(values) / len(values), len(values), max(values) - min(values))
    table = []
    for name, (value, seeds, spread) in means.items():
        gap = None
        if {"source only", "oracle"} <= means.keys():
            low, high = means["source only"][0], means["oracle"][0]
            gap = (value - low) / (high - low)
        table.append({"row": name, "seeds": seeds, "target": value, "spread": spread, "recovered": gap})
    return table


def main() -> None:
    """Make domains, train, measure, write, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs = ("camera", "people", "coco")
    parser.add_argument("--pairs", nargs="+", choices=pairs, default=["camera", "people"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=128, help="side of the crops")
    parser.add_argument("--epochs", type=int, default=12, help="of source and oracle")
    parser.add_argument("--adapt-epochs", type=int, default=6)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/adaptation"), help="folder of the checkpoints"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "adaptation.json")
    parser.add_argument("--compare", action="store_true", help="print differences between rows and stop")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return
    same = {"size": options.size, "epochs": options.epochs, "adapt_epochs": options.adapt_epochs}
    if options.compare:
        for pair in pairs:
            known = [r for r in recorded(options.json) if {**same, "pair": pair}.items() <= r.items()]
            if known:
                print(f"== {pair}")
                print_table(recovered(known))
                print_table(compare([{**row, **row["target"]} for row in known], AGAINST))
        return

    for seed in options.seeds:
        for pair_name in options.pairs:
            pair = make_pair(pair_name, data_root(None))
            runs = options.runs / f"{pair_name}-{options.size}-{options.epochs}-{seed}"
            for name in ROWS:  # the source first
                key = {"pair": pair_name, "row": name, "seed": seed, **same}
                wanted = name in options.rows or (
                    name == "source only" and not (runs / "source-only" / "last.pt").is_file()
                )
                if not wanted or any(key.items() <= row.items() for row in recorded(options.json)):
                    continue
                print(f"== {pair_name}: {name}, seed {seed}", flush=True)
                row = {**key, "commit": commit(), **measure(name, pair, seed, options, runs)}
                # Another process may have added rows meanwhile.
                write(options.json, [*recorded(options.json), row])


if __name__ == "__main__":
    main()
