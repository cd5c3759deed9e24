"""Shared by the benchmarks that train: a row is a training, measured on people it has not seen.

Rows are written to a result file as they come, by several processes if need be. The intervals of rows and
differences are found by resampling the persons.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recording import commit, write

from lfpose_edge.cli.evaluate import run_eval
from lfpose_edge.machine import cpu_model
from lfpose_edge.metrics.bootstrap import pck_difference, pck_interval

LFPOSE = str(Path(sys.executable).with_name("lfpose"))
COUNTS = ("correct", "counted")


def run(arguments: Sequence[str], folder: Path | None = None) -> None:
    """Run a command and show its output; exit with its status if it fails."""
    done = subprocess.run(arguments, cwd=folder)
    if done.returncode:
        sys.exit(done.returncode)


def recorded(path: Path) -> list[dict[str, Any]]:
    """The rows of a result file; none if there is no file."""
    rows: list[dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    )
    return rows


def train(recipe: str, changes: Sequence[str], out: Path, root: Path, device: str) -> dict[str, Any]:
    """Train with a recipe and changes to it; returns the command and how long it took."""
    import torch

    training = ["train", recipe, *changes]
    where = ["--out", str(out), "--data", str(root), "--device", device, "--validate-every", "1000"]
    run([LFPOSE, *training, *where])
    history = torch.load(out / "last.pt", weights_only=True)["history"]
    return {
        "minutes": sum(epoch["seconds"] for epoch in history) / 60,
        "training": shlex.join(["lfpose", *training]).replace(str(root), "$LFPOSE_DATA"),
    }


def folder_of(runs: Path, device: str, *words: object) -> Path:
    """Where a training's checkpoint goes; trainings on different devices do not resume each other's."""
    plain = (str(word).replace(",", "").replace("'", "").replace("%", "percent") for word in words)
    return runs / device_name(device).replace(" ", "-") / "-".join(" ".join(plain).split())


def device_name(device: str) -> str:
    """The device that trains when ``device`` is cpu, cuda or auto: a GPU's name, or ``cpu``."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())


def made_on() -> dict[str, Any]:
    """What a row was made with: a file has rows of many commits and of several machines."""
    import torch

    return {
        "commit": commit(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def evaluate(checkpoint: Path, annotations: str, images: str, root: Path, device: str) -> dict[str, Any]:
    """Measure a checkpoint on located persons, paths relative to ``root``."""
    result = checkpoint.with_name("measured.json")
    # ``lfpose eval``, without a separate process for every set of persons.
    where = (Path(annotations), Path(images), str(checkpoint))
    run_eval(*where, "auto", "auto", device, root, json_path=result, report=None, against=None)
    measured = json.loads(result.read_text(encoding="utf-8"))
    return {
        "pck_box": measured["pck_box"]["mean"],
        "either_side": measured["pck_either_side"]["mean"],
        "per_joint": measured["pck_box"]["per_joint"],
        "presence_auc": measured["presence_auc"],
        "oks": measured["oks"],
        "lines": {name: line["pck_box"]["mean"] for name, line in measured["lines"].items()},
        "lines_either_side": {n: line["pck_either_side"]["mean"] for n, line in measured["lines"].items()},
        **{key: digits(row[i] for row in measured["per_person"]) for i, key in enumerate(COUNTS)},
    }


def record_rows(
    path: Path,
    names: Iterable[str],
    seeds: Iterable[int],
    same: Mapping[str, Any],
    device: str,
    measure: Callable[[str, int], dict[str, Any]],
) -> None:
    """Measure the rows that a result file does not have yet, and write each as it comes.

    Args:
        path: of the file.
        names, seeds: of the rows.
        same: what else identifies a row, besides its name, seed and device.
        device: cpu, cuda or auto.
        measure: trains and measures the row of a name and a seed.
    """
    for seed in seeds:
        for name in names:
            key = {"row": name, "seed": seed, **same, "device": device_name(device)}
            if any(key.items() <= row.items() for row in recorded(path)):
                continue
            print(f"== {name}, seed {seed}", flush=True)
            row = {**key, **made_on(), **measure(name, seed)}
            write(path, [*recorded(path), row])  # to which another process may have added rows meanwhile


def mean_auc(measured: Mapping[str, Any]) -> float:
    """Presence AUC, on average over the joints that are there in some persons and not in others."""
    known = [value for value in measured["presence_auc"].values() if value is not None]
    return sum(known) / max(1, len(known))


def digits(joints: Iterable[int]) -> str:
    """One hexadecimal digit per person, for a number of joints of twelve at most."""
    return "".join(f"{count:x}" for count in joints)


def compare(rows: Iterable[dict[str, Any]], against: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Every row alone, and minus each row that it is compared with, in percentage points, for each device.

    Args:
        rows: with ``row``, ``seed``, ``device`` and what :func:`evaluate` counted.
        against: names of rows, in order, and those that each is compared with.
    """
    rows, table = list(rows), []
    for device, name in product(dict.fromkeys(row["device"] for row in rows), against):
        persons = {
            (row["row"], row["seed"]): np.array([[int(digit, 16) for digit in row[k]] for k in COUNTS]).T
            for row in rows
            if row["device"] == device
        }
        for other in (None, *against[name]):
            seeds = sorted(s for n, s in persons if n == name and (other is None or (other, s) in persons))
            if not seeds:
                continue
            # A person is drawn together with the results of all seeds.
            ours = sum(persons[name, seed] for seed in seeds).tolist()
            found = alone = pck_interval(ours)
            if other is not None:
                found = pck_difference(ours, sum(persons[other, seed] for seed in seeds).tolist())
            points = {key: 100 * value for key, value in asdict(found).items()}
            more: dict[str, object] = {}
            if other is not None:
                more = {"part of it": alone.value / (alone.value - found.value)}
            elif len(seeds) > 1:
                each = (100 * pck_interval(persons[name, seed].tolist()).value for seed in seeds)
                more = {"each seed": " ".join(f"{value:.1f}" for value in each)}
            row = {"row": name, "seeds": len(seeds), "device": device, "less": other}
            table.append({**row, **points, **more})
    return table
