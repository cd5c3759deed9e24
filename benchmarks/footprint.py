"""What lfpose-edge costs besides time per frame: import, help, and memory over a long run.

    python benchmarks/footprint.py

Writes benchmarks/results/footprint.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from recording import percentiles, print_table, write

from lfpose_edge import PoseEstimator
from lfpose_edge.backends import available
from lfpose_edge.cli.bench import frame_ring, person_boxes

RESULTS = Path(__file__).parent / "results"
STARTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import lfpose_edge": [sys.executable, "-c", "import lfpose_edge"],
    "from lfpose_edge import PoseEstimator": [sys.executable, "-c", "from lfpose_edge import PoseEstimator"],
    "lfpose --help": [str(Path(sys.executable).with_name("lfpose")), "--help"],
}


def resident_mb() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--starts", type=int, default=16, help="how often each program is started")
    parser.add_argument("--json", type=Path, default=RESULTS / "footprint.json")
    options = parser.parse_args()

    rows: list[dict[str, object]] = []
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(options.starts + 1):  # the first fills the file cache
        for name, command in STARTS.items():
            started = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append((perf_counter() - started) * 1e3)
    for name, samples in times.items():
        rows.append({"what": name, **{f"{k}_ms": v for k, v in percentiles(samples[1:]).items()}})

    frames, boxes = frame_ring(), person_boxes(2)
    for backend in (name for name, reason in available().items() if reason is None):
        with PoseEstimator(backend=backend) as estimator:
            for i in range(min(1000, options.frames)):  # pools and caches fill
                estimator(frames[i % len(frames)], boxes)
            before = resident_mb()
            for i in range(options.frames):
                result = estimator(frames[i % len(frames)], boxes)
            grown = resident_mb() - before
            assert np.isfinite(result.keypoints).all()
        row = {"what": f"{options.frames} frames of 2 persons, {backend}", "grown_mb": round(grown, 2)}
        rows.append({**row, "resident_mb": round(before, 1)})
    print_table(rows)
    write(options.json, rows)


if __name__ == "__main__":
    main()
