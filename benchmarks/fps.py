"""How long a frame takes, end to end and stage by stage: every installed backend, 1 and 8 persons.

    python benchmarks/fps.py

All cases take turns in one process, on frames that rotate; the first fifth of a turn is not timed,
because it takes some frames until the caches hold a model's weights. On a GPU, where the stages are one
launch, `preprocess` is the host's time to hand a frame over and `infer` its wait. If torch sees the GPU too,
the same model, crop and decode in torch also take turns, eager and compiled. Writes
benchmarks/results/fps.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recording import write
from rich.console import Console

from lfpose_edge.bundle import Bundle
from lfpose_edge.cli.bench import Way, measure, table
from lfpose_edge.zoo import bundle_path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="lfpose-lite", help="a shipped model's name, or a bundle's folder")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each case")
    parser.add_argument(
        "--threads", type=int, nargs="+", help="thread counts; 1 and all cores when not given"
    )
    parser.add_argument("--persons", type=int, nargs="+", default=[1, 8], help="persons a frame")
    parser.add_argument("--json", type=Path, default=RESULTS / "fps.json", help="where the rows are written")
    options = parser.parse_args()

    threads = options.threads or sorted({1, os.cpu_count() or 1})
    rows = measure(
        options.model,
        thread_counts=threads,
        persons=options.persons,
        seconds=options.seconds,
        others=_in_torch(options.model),
    )
    _compare_with_torch(rows)
    Console(highlight=False, width=140).print(table(rows))
    write(options.json, rows)


def _in_torch(model: str) -> Mapping[str, Way]:
    """The same in torch, if it sees a GPU and what a recipe's network needs is installed; else nothing."""
    if find_spec("torch") is None or find_spec("yaml") is None:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    from torch_frames import torch_ways

    return torch_ways(Bundle.open(bundle_path(model)))


def _compare_with_torch(rows: list[dict[str, Any]]) -> None:
    """Add to each row how many times as long eager torch takes for equally many persons."""
    eager = {row["persons"]: row for row in rows if row["backend"].startswith("torch-eager")}
    for row in rows:
        if row["persons"] in eager:
            row["times_torch_eager"] = round(eager[row["persons"]]["total_p50_ms"] / row["total_p50_ms"], 3)


if __name__ == "__main__":
    main()
