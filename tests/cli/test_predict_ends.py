"""What ``lfpose predict`` makes of a video or a stream that ends too early."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lfpose_edge.cli import overlays, predict
from lfpose_edge.errors import BackendUnavailable, SourceError
from lfpose_edge.estimator import PoseEstimator
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
    assert len((tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert cv2.VideoCapture(str(tmp_path / "live.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_of_a_live_video_that_the_disk_did_not_hold_the_rest_is_kept(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can give its frames again."""

    def stream(*_: object, **__: object) -> Iterator[Frame]:
        for i in range(30):
            yield Frame(np.full((48, 64, 3), i, np.uint8), f"frame {i}", i, i / 10, fps=10.0, live=True)
        message = "rtsp://camera gives no more frames after 30"
        raise SourceError(message)

    monkeypatch.setattr(predict, "frames", stream)
    monkeypatch.setattr(overlays, "_count_frames", lambda _: 20)
    done = lfpose("predict", "rtsp://camera", "--json", "live.jsonl", "--save", "live.avi")
    assert done.code == 1
    assert done.err.splitlines() == [
        "error: cannot write live.avi whole: 20 of its 30 frames can be read back; is the disk full?",
        "error: rtsp://camera gives no more frames after 30",
    ]
    assert ["wrote live.avi" in done.out, "wrote live.jsonl" in done.out] == [True, True]
    assert (tmp_path / "live.avi").is_file()
    monkeypatch.setattr(overlays, "_count_frames", lambda _: 0)
    done = lfpose("predict", "rtsp://camera", "--save", "none.avi")
    assert (done.code, (tmp_path / "none.avi").exists()) == (1, False)
    assert "0 of its 30 frames" in done.err


def _few_lines(monkeypatch: pytest.MonkeyPatch, error: Exception, after: int = 3) -> None:
    """A stream that goes on, and an estimator that fails after some frames."""
    original, left = PoseEstimator.__call__, itertools.count(after, -1)

    def stream(*_: object, **__: object) -> Iterator[Frame]:
        for i in itertools.count():
            yield Frame(np.zeros((48, 64, 3), np.uint8), f"frame {i}", i, fps=10.0)

    def estimate(self: PoseEstimator, *arguments: Any, **options: Any) -> Any:
        if not next(left):
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(predict, "frames", stream)
    monkeypatch.setattr(PoseEstimator, "__call__", estimate)


def test_a_stop_after_a_stop_waits_for_the_files(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Iterator[Frame]:
        for i in range(3):
            yield Frame(np.zeros((48, 64, 3), np.uint8), f"frame {i}", i, fps=10.0)
        signal.raise_signal(signal.SIGINT)

    original = PoseEstimator.describe

    def describe(self: PoseEstimator) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(predict, "frames", stream)
    monkeypatch.setattr(PoseEstimator, "describe", describe)
    done = lfpose("predict", "rtsp://camera", "--json", "live.jsonl", "--save", "live.avi")
    assert (done.code, done.err.strip()) == (143, "stopped")
    assert len((tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert cv2.VideoCapture(str(tmp_path / "live.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize("error", [BackendUnavailable("the GPU is gone"), OSError(5, "no more")], ids=str)
def test_what_a_stream_gave_until_something_else_failed_is_kept(
    error: Exception, lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_lines(monkeypatch, error)
    done = lfpose("predict", "rtsp://camera", "--json", "live.jsonl")
    assert (done.code, done.err.count("error: ")) == (1, 1)
    assert len((tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_on_a_full_disk_a_streams_lines_stay_whole(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    _few_lines(monkeypatch, BackendUnavailable("nobody saw that the disk is full"), after=100)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
    try:
        done = lfpose("predict", "rtsp://camera", "--json", "live.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (done.code, "live.jsonl" in done.err) == (1, True), done.err
    lines = (tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
    assert lines


def test_several_files_as_a_shell_lists_them(lfpose, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((60, 40, 3), 90, np.uint8))
    done = lfpose("predict", "a.png", "b.png", "--json", "out.jsonl")
    assert (done.code, "2 frame(s)" in done.out) == (0, True), done.err
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a.png", "b.png"]
    done = lfpose("predict", "a.png", "b.png", "--save", "b.png")
    assert (done.code, "--save b.png is the source" in done.err) == (1, True)
    (tmp_path / "c.png").write_bytes(b"")
    done = lfpose("predict", "a.png", "c.png", "b.png", "--json", "some.jsonl")
    assert (done.code, "c.png is empty" in done.err, "some.jsonl" in done.err) == (1, True, True)
    assert not (tmp_path / "some.jsonl").exists()
    done = lfpose("predict", "a.png", "c.png", "b.png", "--json", "some.jsonl", "--keep-going")
    assert (done.code, "left out: c.png is empty" in done.err) == (1, True)
    assert len((tmp_path / "some.jsonl").read_text(encoding="utf-8").splitlines()) == 2


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
    assert 0 < len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) < 18
