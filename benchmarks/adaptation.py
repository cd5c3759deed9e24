"""What adaptation to another domain recovers: mean teacher, each module, all of them, a few target labels.

    python benchmarks/adaptation.py                       # all rows of two pairs, seed 0; hours on a CPU
    python benchmarks/adaptation.py --pairs camera --rows "mean teacher" all --seeds 0 1 2
    python benchmarks/adaptation.py --size 96 --compare   # differences and gaps of the rows recorded

Needs Leeds Sports Pose Extended as COCO JSON below $LFPOSE_DATA: lspet/train.json, test.json, val.json and
images; for the pair ``coco`` a COCO-keypoints JSON, coco/train.json, with images; and for ``everyday`` what
``everyday.py`` needs, except the labels. Creates the domains there once (source; target):

    camera     half of the people as they are; the other half through a poor camera
    people     those who stand upright; those who lie or are upside down
    coco       athletes (all of LSPET's); everyday people (half of COCO's; the other half is for measuring)
    everyday   athletes; the people of Stanford 40, whose joints are unknown, measured on a few of COCO's

A source is trained once per pair and seed. All other rows start from it and take equally many steps: the
adaptations, the source trained on, and the oracle, which has the target's locations besides the source's.
Rows "1 %" and "5 %" have the locations of that share of the target's people; only they and the oracle read
any. Unless a row says otherwise, BatchNorm keeps the statistics of the target. All rows are measured on
people of the target and of the source that none has trained on. benchmarks/results/adaptation.json is written
after each row; a row that is recorded there is not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recording import print_table, write
from trainings import (
    COUNTS,
    compare,
    device_name,
    evaluate,
    folder_of,
    made_on,
    mean_auc,
    recorded,
    train,
)

from lfpose_edge.cli.training import require_device
from lfpose_edge.coco import read_coco_boxes, read_coco_keypoints
from lfpose_edge.persons import PersonTable, data_root, joined
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.adapt import SelfAgreement, Verdict, self_agreement, with_statistics_of
from lfpose_edge.train.data.domains import Camera, by_posture, halves, through_camera, write_persons
from lfpose_edge.train.evaluate import evaluate_network
from lfpose_edge.train.start import trained_network

RESULTS = Path(__file__).parent / "results"
RECIPE = "adapt"
SEED = 0  # of the domains; the trainings have their own


NOT_ADAPTED = ("loss.teacher=0", "adapt=null")


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        changes: made to the recipe.
        adapts: whether it sees the target's people.
        located: share of the target's people whose locations it is given.
        against: rows that it is compared with.
    """

    changes: tuple[str, ...] = NOT_ADAPTED
    adapts: bool = True
    located: float = 0.0
    against: tuple[str, ...] = ("source, trained on", "mean teacher", "oracle")


LOW, TURNED, HIGH = "source, trained on", "source, trained on, turned", "oracle"
STATISTICS = "source, trained on, target's statistics"
PLAIN, TURN = "adapt={}", "augment.turn=0.3"


def taught(adapt: str = PLAIN, *changes: str, located: float = 0.0, than: str = "mean teacher") -> Row:
    """A mean teacher and more, compared with the source trained on, the row ``than`` and the oracle."""
    return Row(("loss.teacher=1", adapt, *changes), located=located, against=(LOW, than, HIGH))


ROWS = {
    "source": Row(adapts=False),
    LOW: Row(adapts=False, against=(HIGH,)),
    TURNED: Row((*NOT_ADAPTED, TURN), adapts=False, against=(LOW, HIGH)),
    STATISTICS: Row(("loss.teacher=0", PLAIN), against=(LOW, HIGH)),
    "mean teacher": Row(("loss.teacher=1", PLAIN), against=(LOW, STATISTICS, HIGH)),
    "mean teacher, statistics of both": taught("adapt={statistics: both}"),
    "mean teacher, turned": Row(("loss.teacher=1", PLAIN, TURN), against=(TURNED, "mean teacher", HIGH)),
    "mean teacher, who mirrors": taught(PLAIN, "loss.teacher_mirrors=true"),
    "mean teacher, who turns": taught(PLAIN, "loss.teacher_turns=true"),
    "mean teacher, turned, who turns": Row(
        ("loss.teacher=1", PLAIN, TURN, "loss.teacher_turns=true"),
        against=(TURNED, "mean teacher, turned", HIGH),
    ),
    "appearance": Row(("loss.teacher=0", "adapt={appearance: 0.5}"), against=(LOW, HIGH)),
    "mean teacher, appearance": taught("adapt={appearance: 0.5}"),
    "mean teacher, maps": Row(
        ("loss.teacher=1", "loss.teacher_maps=0.6", "adapt={appearance: 0.5}"),
        against=(LOW, "mean teacher", "mean teacher, appearance", HIGH),
    ),
    "mean teacher, maps, who turns": Row(
        ("loss.teacher=1", "loss.teacher_maps=0.6", "loss.teacher_turns=true", "adapt={appearance: 0.5}"),
        against=(LOW, "mean teacher, who turns", HIGH),
    ),
    "mean teacher, IHTA": taught("adapt={topology: 2}"),
    "mean teacher, IHTA with discriminators": taught("adapt={topology: 2, nodes: 0.05, graphs: 0.05}"),
    "mean teacher, CAFA": taught("adapt={features: 0.05}"),
    "mean teacher, CAFA without BSAM": taught("adapt={features: 0.05, attention: false}"),
    "all": taught("adapt={topology: 2, features: 0.05}"),
    "all, appearance": taught("adapt={topology: 2, features: 0.05, appearance: 0.5}"),
    "1 %": taught(located=0.01),
    "1 %, ISA": taught("adapt={structure: 0.1}", located=0.01, than="1 %"),
    "1 %, all": taught("adapt={topology: 2, features: 0.05, structure: 0.1}", located=0.01, than="1 %"),
    "5 %": taught(located=0.05),
    "5 %, ISA": taught("adapt={structure: 0.1}", located=0.05, than="5 %"),
    "5 %, all": taught("adapt={topology: 2, features: 0.05, structure: 0.1}", located=0.05, than="5 %"),
    HIGH: Row(("loss.teacher=0", PLAIN), located=1.0, against=(LOW,)),
}


@dataclass(frozen=True)
class Domain:
    """Annotations and images, relative to the data root."""

    annotations: str
    images: str
    unlabelled: str = "absent"

    def located(self) -> str:
        """The domain as a recipe's entry for located persons."""
        return f"{{annotations: {self.annotations}, images: {self.images}, unlabelled: {self.unlabelled}}}"

    def target(self, located: float) -> str:
        """The domain as a recipe's entry for a target: boxes only, except for a ``located`` share."""
        return f"{self.located()[:-1]}, locations: {located}}}"


@dataclass(frozen=True)
class Pair:
    """A source and a target, each with people to train on and people to measure on.

    Attributes:
        located: whether the joints of the target's training people are known.
    """

    source: Domain
    target: Domain
    source_test: Domain
    target_test: Domain
    located: bool = True


def make_pair(name: str, root: Path) -> Pair:
    """The domains of a pair, created if they do not exist yet."""
    folder, images = root / "domains" / name, "lspet/images"
    athletes, other_athletes = (Domain(f"lspet/{part}.json", images) for part in ("train", "test"))
    if name == "everyday":
        target = Domain("stanford40/train.json", "stanford40/images")
        target_test = Domain("coco_mini/train.json", "coco_mini/images", "unknown")
        return Pair(athletes, target, other_athletes, target_test, located=False)
    if name == "coco":
        target, truth = Domain("", "coco/images", "unknown"), ("coco/train.json",)
        sides = {part: replace(target, annotations=f"domains/coco/{part}.json") for part in ("train", "test")}
        if not (root / sides["test"].annotations).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            persons = _read(truth, "coco/images", root)
            for side, part in zip(sides.values(), halves(persons, SEED), strict=True):
                write_persons(part, root / side.annotations, root / side.images)
        return Pair(athletes, sides["train"], other_athletes, sides["test"])
    made = {}
    # No choice depends on the validation people, so they serve as test people here.
    for part, files in (("train", ("lspet/train.json",)), ("test", ("lspet/test.json", "lspet/val.json"))):
        base = f"domains/{name}/{part}"
        source = Domain(f"{base}-source.json", images)
        target = Domain(f"{base}-target.json", images)
        if name == "camera":
            target = Domain(f"{base}-target/annotations.json", f"{base}-target/images")
        made[part] = (source, target)
        if (root / target.annotations).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        persons = _read(files, images, root)
        ours, theirs = halves(persons, SEED) if name == "camera" else by_posture(persons)
        write_persons(ours, root / source.annotations, root / images)
        if name == "camera":
            through_camera(theirs, Camera(), folder / f"{part}-target", seed=SEED)
        else:
            write_persons(theirs, root / target.annotations, root / images)
    (train_source, train_target), (test_source, test_target) = made["train"], made["test"]
    return Pair(train_source, train_target, test_source, test_target)


def _read(files: Sequence[str], images: str, root: Path) -> PersonTable:
    """The persons of several files that share a folder of images, renumbered."""
    persons = joined([read_coco_keypoints(root / file, root / images, LSP14) for file in files])
    names = {path: number for number, path in enumerate(dict.fromkeys(persons.images))}
    return replace(
        persons,
        image_ids=np.array([names[path] for path in persons.images]),
        annotation_ids=np.arange(len(persons)),
    )


def changes_of(name: str, pair: Pair, source: Path, options: argparse.Namespace) -> list[str]:
    """A row as changes to the recipe."""
    row = ROWS[name]
    # One epoch over source and target together counts as two over the source alone.
    epochs = options.adapt_epochs * (1 if row.adapts else 2)
    if name == "source":
        epochs = options.epochs
    start = ("optimizer.lr_head=0.001", "optimizer.lr_backbone=0.0005")
    if name != "source":  # the recipe's rates are meant for adaptation
        start = ("network.pretrained=false", f"start_from={source}")
    return [
        f"data.train=[{pair.source.located()}]",
        f"data.target=[{pair.target.target(row.located) if row.adapts else ''}]",
        f"data.val={pair.source_test.located()}",
        f"stages=[{{epochs: {epochs}, size: [{options.size}, {options.size}]}}]",
        *start,
        "loss.teacher_maps=0",  # unless the row says otherwise
        *row.changes,
    ]


def measure(name: str, pair: Pair, seed: int, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """Train a row and evaluate it on both domains' test people."""
    root = data_root(None)
    source = runs / "source" / "last.pt"
    out = runs / "-".join(name.replace(",", "").replace("'", "").replace("%", "percent").split())
    changes = [f"seed={seed}", *changes_of(name, pair, source, options)]
    if options.workers is not None:
        changes.append(f"data.workers={options.workers}")
    trained = train(RECIPE, changes, out, root, options.device)
    found = {
        place: evaluate(out / "last.pt", domain.annotations, domain.images, root, options.device)
        for place, domain in (("target", pair.target_test), ("source", pair.source_test))
    }
    kept = ("pck_box", "per_joint", *COUNTS)
    network, recipe = trained_network(out / "last.pt", require_device(options.device))
    how = (recipe.input_size, recipe.data.padding)
    people = read_coco_boxes(root / pair.target_test.annotations, root / pair.target_test.images, LSP14)
    known = read_coco_keypoints(root / pair.source_test.annotations, root / pair.source_test.images, LSP14)
    of_source, alone = with_statistics_of(network, known, *how), self_agreement(network, people, *how)
    return {
        **trained,
        **{
            place: {**{k: values[k] for k in kept}, "presence_auc": mean_auc(values)}
            for place, values in found.items()
        },
        "without_labels": {k: v for k, v in asdict(alone).items() if isinstance(v, float)},
        "source_in_its_statistics": evaluate_network(of_source, known, *how).pck_box.mean,
    }


def judged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdict of ``lfpose adapt`` on each row, which uses no target labels, beside the true change."""
    sources = {row["seed"]: row for row in rows if row["row"] == "source"}
    table = []
    for row in rows:
        source = sources.get(row["seed"])
        if source is None or row is source:
            continue
        alone = [which["without_labels"] for which in (source, row)]
        if not all("turned" in found for found in alone):  # recorded before quarter turns were measured
            alone = [{**found, "turned": 0.0} for found in alone]
        before, after = (SelfAgreement(**found) for found in alone)
        on_source = (which["source_in_its_statistics"] for which in (source, row))
        verdict = Verdict(before, after, *on_source, row["source"]["pck_box"])
        table.append(
            {
                "row": row["row"],
                "seed": row["seed"],
                "target": 100 * (row["target"]["pck_box"] - source["target"]["pck_box"]),
                "agreement": 100 * (after.agreement - before.agreement),
                "turned": 100 * (after.turned - before.turned),
                "source": 100 * (verdict.source_after - verdict.source_before),
                "published": not verdict.faults(),
            }
        )
    return table


def recovered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """PCK on target people, and the share of the gap that is recovered, over seeds that have both its ends.

    The gap is from the source trained on, which has taken as many steps, to the oracle, if there is one.
    ``spread`` is the largest minus the smallest of the seeds' gains.
    """
    values = {(row["row"], row["seed"]): row["target"]["pck_box"] for row in rows}
    table = []
    for name in ROWS:
        seeds = [seed for row, seed in values if row == name]
        if not seeds:
            continue
        gains = {seed: values[name, seed] - values[LOW, seed] for seed in seeds if (LOW, seed) in values}
        gaps = {seed: values[HIGH, seed] - values[LOW, seed] for seed in gains if (HIGH, seed) in values}
        gap = sum(gaps.values())
        table.append(
            {
                "row": name,
                "seeds": len(seeds),
                "target": sum(values[name, seed] for seed in seeds) / len(seeds),
                "gain": sum(gains.values()) / len(gains) if gains else None,
                "spread": max(gains.values()) - min(gains.values()) if len(gains) > 1 else None,
                "recovered": sum(gains[seed] for seed in gaps) / gap if gap else None,
            }
        )
    return table


def main() -> None:
    """Make domains, train, measure, write, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs = ("camera", "people", "coco", "everyday")
    parser.add_argument("--pairs", nargs="+", choices=pairs, default=["camera", "people"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=128, help="side of the crops")
    parser.add_argument("--epochs", type=int, default=12, help="of the source")
    parser.add_argument("--adapt-epochs", type=int, default=6)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--workers", type=int, help="processes that load, beside the one that trains")
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
        rows = [row for row in recorded(options.json) if same.items() <= row.items()]
        for pair, device in product(pairs, dict.fromkeys(row["device"] for row in rows)):
            known = [row for row in rows if (row["pair"], row["device"]) == (pair, device)]
            if known:
                print(f"== {pair}, trained on {device}")
                print_table(recovered(known))
                print_table(judged(known))
                against = {name: row.against for name, row in ROWS.items()}
                print_table(compare([{**row, **row["target"]} for row in known], against))
        return

    device = device_name(options.device)
    for seed in options.seeds:
        for pair_name in options.pairs:
            pair = make_pair(pair_name, data_root(None))
            runs = folder_of(options.runs, options.device, pair_name, *same.values(), seed)
            for name in ROWS:  # the source first
                key = {"pair": pair_name, "row": name, "seed": seed, **same, "device": device}
                if name not in ("source", *options.rows):
                    continue
                if ROWS[name].located and not pair.located:
                    print(f"== {pair_name}: no {name}, as the target's joints are not known", flush=True)
                    continue
                there = any(key.items() <= row.items() for row in recorded(options.json))
                if there and (name != "source" or (runs / "source" / "last.pt").is_file()):
                    continue
                print(f"== {pair_name}: {name}, seed {seed}", flush=True)
                row = {**key, **made_on(), **measure(name, pair, seed, options, runs)}
                # Another process may have added rows meanwhile.
                kept = [r for r in recorded(options.json) if not key.items() <= r.items()]
                write(options.json, [*kept, row])


if __name__ == "__main__":
    main()
