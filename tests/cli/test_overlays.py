"""Overlays as files: whole, or not at all."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lfpose_edge.cli import overlays as module
from lfpose_edge.cli.errors import Stopped
from lfpose_edge.cli.overlays import OverlayWriter
from lfpose_edge.errors import SourceError
from lfpose_edge.sources import Frame, frames


@contextmanager
def _small_disk(bytes_: int) -> Iterator[None]:
    """Limit the size of files to so many bytes, which looks like a full disk to their writer."""
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def _write(path: Path, count: int, height: int = 48, width: int = 64, fps: float = 10.0) -> None:
    rng = np.random.default_rng(0)
    with OverlayWriter(path) as overlays:
        for i in range(count):
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            overlays.write(Frame(image, f"frame {i}", i, fps=fps), image)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_video_that_cannot_be_written_whole_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"the old one")
    with _small_disk(20_000), pytest.raises(SourceError, match=rf"out{suffix} whole: \d+ of its 40 frames"):
        _write(path, 40)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [(48, 64), (47, 63)], ids=str)
@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4", ".m4v", ".mov"])
def test_every_kind_of_video_can_be_read(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"out{suffix}"
    _write(path, 3, *size)
    capture = cv2.VideoCapture(str(path))
    seen = [capture.get(side) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)]
    assert seen == [48, 64]  # of an odd side none is lost: the last row or column is there twice
    assert sum(capture.read()[0] for _ in range(4)) == 3


@pytest.mark.parametrize("fps", [23.976, 59.9401, 65.535, 119.737, 239.873, 999.9])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi"])
def test_a_video_of_any_rate_is_written(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"out{suffix}"
    _write(path, 3, fps=fps)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)


def _stopping_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop whatever writes that many frames at once, before they are counted."""
    original = cv2.VideoWriter

    class Writer:
        def __init__(self, *arguments: Any) -> None:
            self._inner, self._left = original(*arguments), count

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def write(self, image: np.ndarray) -> None:
            self._inner.write(image)
            self._left -= 1
            if not self._left:
                raise Stopped

    Writer.fourcc = original.fourcc  # type: ignore[attr-defined]
    monkeypatch.setattr(cv2, "VideoWriter", Writer)


def test_a_stop_between_a_frame_and_its_count_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, path = np.zeros((48, 64, 3), np.uint8), tmp_path / "out.avi"
    _stopping_at(3, monkeypatch)
    with OverlayWriter(path) as overlays:
        for i in range(5):
            try:
                overlays.write(Frame(image, "camera 0", i, fps=10.0), image)
            except Stopped:
                break
    assert _length(path) == 3


def test_a_second_stop_waits_until_the_video_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, count = tmp_path / "out.mp4", module._count_frames

    def stopped_meanwhile(video: Path) -> int:
        signal.raise_signal(signal.SIGTERM)
        return count(video)

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    monkeypatch.setattr(module, "_count_frames", stopped_meanwhile)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stopped):
            _write(path, 3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert _length(path) == 3


@pytest.mark.parametrize(
    ("live", "every_s", "count", "expected"),
    [
        (True, 0.1, 30, 30),  # as fast as it says
        (True, 0.5, 6, 25),  # five times slower: each stands until the next one
        (True, 0.05, 60, 31),  # twice as fast: every other one
        (False, 0.5, 6, 6),  # of a file every frame, once
        (False, 0.05, 60, 60),
    ],
)
def test_a_cameras_video_takes_as_long_as_it_took(
    live: bool, every_s: float, count: int, expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "out.avi"
    with OverlayWriter(path) as overlays:
        for i in range(count):
            image = np.full((48, 64, 3), 8 * (i + 1) % 256, np.uint8)
            overlays.write(Frame(image, "0", i, time_s=i * every_s, fps=10.0, live=live), image)
    assert _length(path) == pytest.approx(expected, abs=1 if live else 0)
    if expected == 25:
        levels = [round(float(f.image.mean()) / 8) for f in frames(path)]
        assert [levels[k] for k in (2, 7, 12, 17)] == [1, 2, 3, 4]


def _length(path: Path) -> int:
    return len(list(frames(path)))


@pytest.mark.parametrize("suffix", [".webm", ".mpg", ".mpeg", ".pgm", ".docx"])
def test_a_kind_that_nothing_here_writes_well_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SourceError, match=rf"suffix '{suffix}' .* of a video \(\.mp4"):
        OverlayWriter(tmp_path / f"out{suffix}")
