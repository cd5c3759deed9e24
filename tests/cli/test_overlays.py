"""Overlays as files: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.cli.overlays import OverlayWriter
from lfpose_edge.errors import SourceError
from lfpose_edge.sources import Frame


@contextmanager
def _small_disk(bytes_: int) -> Iterator[None]:
    """No file can grow beyond so many bytes; to who writes it is as on a full disk."""
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


@pytest.mark.parametrize("suffix", [".webm", ".mpg", ".mpeg", ".pgm", ".docx"])
def test_a_kind_that_nothing_here_writes_well_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SourceError, match=rf"suffix '{suffix}' .* of a video \(\.mp4"):
        OverlayWriter(tmp_path / f"out{suffix}")
