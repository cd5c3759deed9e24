"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

# Workers share the cores: one thread each, in the processes that tests start too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# OpenCV reads it once, at the first video: what the commands set comes too late after another test's.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

CHECKOUT = Path(__file__).resolve().parent.parent
MARKS = {"shared_data": pytest.mark.shared, "stream": pytest.mark.gpu}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the research data or a GPU: ``-m "not shared and not gpu"`` leaves it out."""
    for item in items:
        for fixture, mark in MARKS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the project's research data: ``$LFPOSE_SHARED``, or ``shared`` beside the checkout."""
    given = os.environ.get("LFPOSE_SHARED")
    folder = Path(given) if given else CHECKOUT.parent / "shared"
    if given and not folder.is_dir():
        pytest.fail(f"LFPOSE_SHARED names {given}, which is no folder")
    if not (folder / "data").is_dir():
        pytest.skip("needs the project's research data beside the checkout")
    return folder


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Runs a command, given by its entry point and its name, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(main: Callable[[], None], name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return Outcome(code, *capfd.readouterr())

    return run
