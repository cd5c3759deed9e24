"""The benchmark scripts run, and write down how they were run and on what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

SMALL = """
name: small
skeleton: lsp14
data: {train: {annotations: people.json, images: images}}
network: {backbone: efficientnet_lite0, pretrained: false, widths: [16, 16, 16, 16]}
stages: [{epochs: 1, size: [64, 64]}]
optimizer: {batch_size: 4}
"""
QUICK = {
    "fps.py": ["--seconds", "0.02", "--threads", "1", "--persons", "1", "2"],
    "kernels.py": ["--seconds", "0.01"],
    "loader.py": ["--turns", "1", "--steps", "1", "--workers", "0", "--recipe", "small.yaml"],
    "footprint.py": ["--frames", "20", "--starts", "2"],
}


@pytest.mark.parametrize("script", QUICK)
def test_a_quick_run_writes_its_rows_and_its_command(script: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = [*QUICK[script], "--json", str(out)]
    (tmp_path / "small.yaml").write_text(SMALL)
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / script), *arguments],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["command"] == f"python benchmarks/{script} {' '.join(arguments)}"
    assert record["machine"]["cpu"]
    times = [v for row in record["rows"] for k, v in row.items() if k.endswith(("_ms", "_us"))]
    assert len(times) >= len(record["rows"])
    assert all(v >= 0 for v in times)
    assert len(done.stdout.splitlines()) > len(record["rows"])  # the table
