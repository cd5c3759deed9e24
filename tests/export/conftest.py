"""Shared by the tests of exports."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from lfpose_edge.export import cli
from nets import spot_image


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of 48 pictures to calibrate with."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(48):
        cv2.imwrite(str(folder / f"{i}.png"), spot_image(rng))
    return folder


@pytest.fixture
def run(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs ``lfpose-export`` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setenv("LFPOSE_DATA", str(tmp_path / "data"))
    return partial(command, cli.main, "lfpose-export")
