"""Videos, cameras and streams, frame by frame."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import encoded, red_image

from lfpose_edge.errors import SourceError
from lfpose_edge.sources import frames


def _write_video(path: Path, levels: tuple[int, ...]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in levels:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()


def test_a_video_under_another_name_is_still_a_video(tmp_path: Path) -> None:
    _write_video(tmp_path / "a.avi", (0, 100))
    (tmp_path / "a.avi").rename(tmp_path / "recording")
    assert len(list(frames(tmp_path / "recording"))) == 2
    (tmp_path / "picture").write_bytes(encoded(".png"))
    assert [f.time_s for f in frames(tmp_path / "picture")] == [None]


@pytest.mark.skipif(sys.platform == "win32", reason="no file has a colon in its name there")
@pytest.mark.parametrize("name", ["2026-11-28T12:00:00.avi", "cam1:0900.avi", "concat:a.avi"])
def test_a_time_in_a_name_is_no_protocol(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_video(tmp_path / "a.avi", (0, 100))
    (tmp_path / "a.avi").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(frames(name))) == 2


def test_a_gif_that_moves_is_a_video(tmp_path: Path) -> None:
    if not hasattr(cv2, "Animation"):
        pytest.skip("this OpenCV writes no GIF")
    animation = cv2.Animation()
    animation.frames, animation.durations = [red_image()] * 3, np.array([100, 500, 100], np.int32)
    cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    assert [f.time_s for f in frames(tmp_path / "a.gif")] == pytest.approx([0, 0.1, 0.6])
    cv2.imwrite(str(tmp_path / "b.gif"), red_image())
    assert [f.time_s for f in frames(tmp_path / "b.gif")] == [None]


def test_a_video_that_was_cut_off_is_an_error_after_its_last_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    _write_video(path, tuple(range(0, 200, 5)))
    whole = path.read_bytes()
    assert len(list(frames(path))) == 40
    path.write_bytes(whole[: len(whole) // 2])
    errors: list[SourceError] = []
    count = len(list(frames(path, on_unreadable=errors.append)))
    assert 0 < count < 36
    (error,) = errors
    assert f"{path} announces 40 frames, but only {count} can be read: it may be cut off" in str(error)
    found = frames(path)
    assert [next(found).index for _ in range(count)] == list(range(count))
    with pytest.raises(SourceError, match="announces 40 frames"):
        next(found)


def test_a_video_gives_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    _write_video(path, (0, 100, 200))
    found = list(frames(path))
    assert [round(float(f.image.mean()), -2) for f in found] == [0, 100, 200]
    assert [f.index for f in found] == [0, 1, 2]
    assert [f.time_s for f in found] == pytest.approx([0, 0.1, 0.2], abs=0.01)
    assert [(f.count, f.fps) for f in found] == [(3, 10.0)] * 3


class _Stream:
    """A stream of two frames, as OpenCV opens one."""

    def __init__(self, source: str) -> None:
        self.source, self.left = source, 2

    def isOpened(self) -> bool:  # noqa: N802
        return self.source in ("rtsp://camera/stream", 0)

    def get(self, fact: int) -> float:
        return {cv2.CAP_PROP_FPS: 90000.0, cv2.CAP_PROP_FRAME_COUNT: -9.2e18}.get(fact, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, red_image()) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.left = 0


@pytest.mark.parametrize("source", ["rtsp://camera/stream", 0])
def test_the_clock_says_when_a_cameras_or_streams_frames_came(
    source: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", _Stream)
    monkeypatch.setattr("lfpose_edge.videos.monotonic", itertools.count(500.0, 0.25).__next__)
    found = frames(source)
    assert [next(found).time_s for _ in range(2)] == [0.25, 0.5]  # the first one begins it


def test_a_password_stays_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Stream(_Stream):
        def __init__(self, source: str) -> None:
            opened.append(source)
            super().__init__("rtsp://camera/stream")

    monkeypatch.setattr(cv2, "VideoCapture", Stream)
    found = frames("rtsp://admin:p@ss@camera/stream?at=2")
    assert next(found).name == "rtsp://camera/stream?at=2 frame 0"
    assert opened == ["rtsp://admin:p@ss@camera/stream?at=2"]
    with pytest.raises(SourceError, match="^rtsp://camera/stream"):
        list(found)


def test_a_stop_is_heard_while_a_stream_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, opened = threading.Event(), threading.Event()

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    def connect(source: str) -> _Stream:
        opened.set()
        answers.wait(60)
        return _Stream(source)

    monkeypatch.setattr(cv2, "VideoCapture", connect)
    before = signal.signal(signal.SIGINT, stop)
    try:
        asking = threading.Thread(target=lambda: opened.wait(60) and os.kill(os.getpid(), signal.SIGINT))
        asking.start()
        with pytest.raises(Stop):
            next(frames("rtsp://camera/stream"))
        assert not answers.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
        answers.set()
        asking.join()


def test_a_stream_that_opencv_refuses_to_try_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(_Stream):
        def __init__(self, source: str = "") -> None:
            if source:
                raise cv2.error
            super().__init__(source)

    monkeypatch.setattr(cv2, "VideoCapture", Refusing)
    with pytest.raises(SourceError, match="cannot open rtsp://camera/stream"):
        list(frames("rtsp://camera/stream"))


def test_a_stream_says_neither_its_length_nor_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", _Stream)
    stream = frames("rtsp://camera/stream")
    found = [next(stream), next(stream)]
    assert [(f.name, f.count, f.fps) for f in found] == [
        ("rtsp://camera/stream frame 0", None, None),
        ("rtsp://camera/stream frame 1", None, None),
    ]
    with pytest.raises(SourceError, match="cannot open rtsp://other"):
        list(frames("rtsp://other"))


@pytest.mark.parametrize("source", ["rtsp://camera/stream", 0])
def test_a_camera_or_stream_that_drops_out_is_an_error(
    source: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", _Stream)
    found = frames(source)
    assert [next(found).index for _ in range(2)] == [0, 1]
    with pytest.raises(SourceError, match="gives no more frames after 2: look whether it is still there"):
        next(found)


class _Live(_Stream):
    """Three frames, the last two of which come while somebody works on the first."""

    def __init__(self, source: int) -> None:
        super().__init__(source)
        self.left = 3
        self.first_is_taken, self.others_were_read, self.ends, self.is_free = (
            threading.Event() for _ in range(4)
        )

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.left == 2:
            self.first_is_taken.wait(60)
        if self.left == 0:
            self.others_were_read.set()
            self.ends.wait(60)
        return super().read()

    def release(self) -> None:
        self.is_free.set()


def test_the_latest_frame_is_the_newest_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = _Live(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
    found = frames(0, latest=True)
    assert next(found).index == 0
    camera.first_is_taken.set()
    assert camera.others_were_read.wait(60)
    assert next(found).name == "camera 0 frame 2"
    camera.ends.set()
    with pytest.raises(SourceError, match="camera 0 gives no more frames after 3"):
        next(found)
    assert camera.is_free.wait(60)


def test_no_thread_reads_a_camera_when_python_ends() -> None:
    """It would come back from OpenCV into a Python that is gone, and end the process."""
    script = """
import atexit, threading, time
import cv2, numpy as np
from lfpose_edge import frames

class Camera:
    def __init__(self, _): pass
    def isOpened(self): return True
    def get(self, _): return 0.0
    def read(self):
        time.sleep(0.02)
        return True, np.zeros((4, 4, 3), np.uint8)
    def release(self): pass

cv2.VideoCapture = Camera
atexit.register(lambda: print(sum(t.daemon for t in threading.enumerate()), "left"))
found = frames(0, latest=True)
next(found)
print(sum(t.daemon for t in threading.enumerate()), "reading")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, "1 reading\n0 left\n"), done.stderr


def test_a_camera_is_free_when_its_latest_frames_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = _Live(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
    camera.first_is_taken.set()
    camera.ends.set()
    found = frames(0, latest=True)
    next(found)
    found.close()
    assert camera.is_free.wait(60)


def test_what_is_no_camera_has_no_latest_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_video(tmp_path / "a.avi", (0, 100))
    for source in (tmp_path / "a.avi", (tmp_path / "a.avi").as_uri(), [red_image()], red_image()):
        with pytest.raises(ValueError, match="latest is for a camera's number or a stream's URL"):
            next(frames(source, latest=True))
    monkeypatch.setattr(cv2, "VideoCapture", _Bare)
    with pytest.raises(SourceError, match="http://there/a.mpg is a recording"):
        next(frames("http://there/a.mpg", latest=True))


class _Recording(_Stream):
    """Two frames, ten seconds apart; the container counts as if there were a hundred a second."""

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, fact: int) -> float:
        facts = {cv2.CAP_PROP_FPS: 100.0, cv2.CAP_PROP_FRAME_COUNT: 1001.0}
        return facts.get(fact, 10_000.0 * (1 - self.left))  # or else how far it is, in milliseconds


def test_frames_that_come_irregularly_are_no_cut_off_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.webm").touch()
    monkeypatch.setattr(cv2, "VideoCapture", _Recording)
    assert [f.time_s for f in frames(tmp_path / "a.webm")] == [0.0, 10.0]


class _Bare(_Stream):
    """Frames whose time is not stored, as in MPEG's own streams."""

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, fact: int) -> float:
        return {cv2.CAP_PROP_FPS: 20.0, cv2.CAP_PROP_FRAME_COUNT: 2.0}.get(fact, 0.0)


def test_a_recording_behind_a_url_that_is_cut_off_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(_Bare):
        def get(self, fact: int) -> float:
            return 20.0 if fact == cv2.CAP_PROP_FRAME_COUNT else super().get(fact)

    monkeypatch.setattr(cv2, "VideoCapture", Cut)
    errors: list[SourceError] = []
    found = list(frames("http://there/a.mpg", on_unreadable=errors.append))
    assert [(f.index, f.live) for f in found] == [(0, False), (1, False)]
    assert ["announces 20 frames, but only 2" in str(error) for error in errors] == [True]


def test_where_a_file_has_no_times_its_rate_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mpg").touch()
    monkeypatch.setattr(cv2, "VideoCapture", _Bare)
    assert [f.time_s for f in frames(tmp_path / "a.mpg")] == [0.0, 0.05]


def _trimmed(path: Path, part: float) -> None:
    """Hide all but the last part of an MP4's frames, as telephones trim: by its header and edit list."""
    data = bytearray(path.read_bytes())
    movie, media, edit = (data.index(name) + 4 for name in (b"mvhd", b"mdhd", b"elst"))
    (plays,) = struct.unpack_from(">I", data, movie + 16)
    (stored,) = struct.unpack_from(">I", data, media + 16)
    struct.pack_into(">I", data, movie + 16, round(plays * part))
    struct.pack_into(">Ii", data, edit + 8, round(plays * part), round(stored * (1 - part)))
    path.write_bytes(data)


def test_a_trimmed_video_is_no_cut_off_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for level in range(0, 240, 6):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    assert [f.count for f in frames(path)] == [40] * 40
    _trimmed(path, 0.4)
    found = list(frames(path))
    assert [f.count for f in found] == [16] * 16
    assert found[0].time_s == 0
    assert found[0].image.mean() == pytest.approx(24 * 6, abs=4)


def test_bare_jpegs_one_after_the_other_are_a_video(tmp_path: Path) -> None:
    for suffix in (".mjpeg", ".mjpg"):
        (tmp_path / f"a{suffix}").write_bytes(5 * encoded(".jpg"))
        assert [f.index for f in frames(tmp_path / f"a{suffix}")] == [0, 1, 2, 3, 4]


def test_a_file_that_is_no_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(SourceError, match="cannot open"):
        list(frames(path))
