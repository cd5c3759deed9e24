"""What commands say on the standard output: lines for programs, names of any kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest


def test_lines_go_to_standard_output_and_nothing_else(lfpose, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((64, 48, 3), 127, np.uint8))
    done = lfpose("predict", "a.png", "b.png", "--json", "-", "--save", "overlays")
    assert done.code == 0, done.err
    assert [json.loads(line)["source"] for line in done.out.splitlines()] == ["a.png", "b.png"]
    assert "2 frame(s), 2 pose(s)" in done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "overlays"]


def test_lines_to_a_standard_output_that_is_closed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    command = [sys.executable, "-m", "lfpose_edge", "predict", str(tmp_path / "a.png"), "--json", "-"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, encoding="utf-8", timeout=120
    )
    assert (done.returncode, done.stderr) == (1, "error: --json -: the standard output is closed\n")


def test_no_line_is_broken_in_a_pipe(lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    name = "a long name, " * 12 + ".png"
    cv2.imwrite(str(tmp_path / name), np.full((64, 48, 3), 127, np.uint8))
    assert f"{name}: 1 person(s)" in lfpose("predict", name).out
    assert f"\nwrote {name}.jsonl\n" in lfpose("predict", name, "--json", f"{name}.jsonl").out


@pytest.mark.skipif(sys.platform != "linux", reason="names are of any bytes on Linux")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
@pytest.mark.parametrize("suffix", [".png", ".avi"])
def test_a_name_that_is_not_utf8_is_as_good_as_any(suffix: str, encoding: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff \xc3\xbc" + suffix.encode())
    if suffix == ".png":
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    else:
        writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    (tmp_path / f"a{suffix}").rename(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "lfpose_edge", "predict", name, "--save", f"over {name}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert b"wrote over" in done.stdout
    assert (tmp_path / f"over {name}").stat().st_size > 0
