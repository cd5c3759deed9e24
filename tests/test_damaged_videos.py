"""Recordings of which some frames cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.errors import SourceError
from lfpose_edge.sources import frames


class _Damaged:
    """A recording of six frames at 10 a second, of which those with the numbers cannot be decoded."""

    damaged: tuple[int, ...] = ()

    def __init__(self, source: str) -> None:
        self.at = -1

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, what: int) -> float:
        known = {cv2.CAP_PROP_FRAME_COUNT: 6.0, cv2.CAP_PROP_FPS: 10.0}
        return known.get(what, max(0, self.at) * 100.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.at += 1
        if self.at in self.damaged or self.at >= 6:
            return False, None
        return True, np.zeros((48, 64, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        ((), None),
        ((2, 3), "has 2 frames before its end that cannot be decoded"),
        ((0, 4), "has 2 frames before its end that cannot be decoded"),
        ((3, 4, 5), "announces 6 frames, but only 3 can be read: it may be cut off"),
    ],
)
def test_what_comes_after_damaged_frames_is_read_too(
    damaged: tuple[int, ...], problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.avi").write_bytes(b"of which nothing is read")
    monkeypatch.setattr(cv2, "VideoCapture", type("", (_Damaged,), {"damaged": damaged}))
    errors: list[SourceError] = []
    found = list(frames(tmp_path / "a.avi", on_unreadable=errors.append))
    assert [(f.index, f.time_s) for f in found] == [
        (i, pytest.approx(i / 10)) for i in range(6) if i not in damaged
    ]
    assert [problem in str(error) for error in errors] == [True] * (problem is not None)
