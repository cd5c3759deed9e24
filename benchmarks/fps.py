"""How long a frame takes, end to end and stage by stage: every installed backend, 1 and 8 persons.

    python benchmarks/fps.py

All cases take turns in one process, on frames that rotate; the first fifth of a turn is not timed, as it
takes some frames until a model's weights are the ones in the caches. Writes benchmarks/results/fps.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from recording import write
from rich.console import Console

from lfpose_edge.cli.bench import measure, table

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
    rows = measure(options.model, thread_counts=threads, persons=options.persons, seconds=options.seconds)
    Console(highlight=False, width=140).print(table(rows))
    write(options.json, rows)


if __name__ == "__main__":
    main()
