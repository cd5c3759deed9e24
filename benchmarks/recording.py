"""Shared by all benchmarks: taking turns, percentiles, the machine's facts and the result file's format."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lfpose_edge.files import write_text_whole
from lfpose_edge.machine import machine

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str | None:
    """The checkout's commit, with ``+`` when files were changed after it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and git("status", "--porcelain", "--untracked-files=no") else head


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p95`` and ``p99`` of samples, in their unit."""
    return {f"p{q}": float(np.percentile(samples, q)) for q in (50, 95, 99)}


def interleave(
    competitors: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 2.0,
    rounds: int | None = None,
    warm_up: int = 3,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time competitors in turns, so that whatever else the machine does affects all of them alike.

    Args:
        competitors: name to a call; it may rotate its inputs from call to call.
        seconds: how long to measure, for all competitors together.
        rounds: number of turns to use instead, so that the count is the same everywhere.
        warm_up: turns that are not counted.

    Returns:
        Milliseconds of every call by name; and, by name, the median over rounds of its time as a multiple of
        the first competitor's in the same round.
    """
    names = list(competitors)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm_up):
        for call in competitors.values():
            call()
    start = perf_counter()
    # Unless ``rounds`` says otherwise, at least five: a median of fewer means little.
    while len(samples[names[0]]) < (rounds or 5) or (rounds is None and perf_counter() - start < seconds):
        for name in names:
            begin = perf_counter()
            competitors[name]()
            samples[name].append((perf_counter() - begin) * 1e3)
    first = np.array(samples[names[0]])
    return samples, {name: float(np.median(np.array(samples[name]) / first)) for name in names}


def command() -> str:
    """The command line of this process, from the checkout's folder."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return shlex.join(["python", str(shown), *sys.argv[1:]])


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as ``{"command", "commit", "machine", "rows"}``; the file appears whole or not at all."""
    record = {"command": command(), "commit": commit(), "machine": machine(), "rows": list(rows)}
    write_text_whole(path, json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as :func:`table` lays them out."""
    print(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned plain text, one column per key; numbers right-aligned, with four significant digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        if value is None:
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [columns] + [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )
