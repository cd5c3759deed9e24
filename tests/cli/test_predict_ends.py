"""What ``lfpose predict`` makes of a video or a stream that ends too early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.cli import predict
from lfpose_edge.errors import SourceError
from lfpose_edge.sources import Frame


def test_what_a_stream_gave_until_it_dropped_out_is_kept(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Iterator[Frame]:
        for i in range(3):
            yield Frame(np.zeros((48, 64, 3), np.uint8), f"frame {i}", i, fps=10.0)
        message = "rtsp://camera gives no more frames after 3"
        raise SourceError(message)

    monkeypatch.setattr(predict, "frames", stream)
    done = lfpose("predict", "rtsp://camera", "--json", "live.jsonl", "--save", "live.avi")
    assert (done.code, done.err) == (1, "error: rtsp://camera gives no more frames after 3\n")
    assert "3 frame(s)" in done.out
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 3
    assert cv2.VideoCapture(str(tmp_path / "live.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_video_that_is_cut_off_is_an_error_unless_one_keeps_going(lfpose, tmp_path: Path) -> None:
    path = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for image in np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8):
        writer.write(image)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = lfpose("predict", "in.avi", "--json", "out.jsonl")
    assert (done.code, done.err.count("\n"), "it may be cut off" in done.err) == (1, 1, True)
    assert not (tmp_path / "out.jsonl").exists()
    done = lfpose("predict", "in.avi", "--json", "out.jsonl", "--keep-going")
    assert done.code == 1
    assert done.err.startswith("left out: in.avi announces 20 frames, but only ")
    assert 0 < len((tmp_path / "out.jsonl").read_text().splitlines()) < 18
