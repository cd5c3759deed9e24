"""Images and frames, whatever they come as; and what is refused."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import turned_jpeg

from lfpose_edge.errors import SourceError
from lfpose_edge.sources import frames, images_in, load_image


def _image(height: int = 40, width: int = 60) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200  # red, in BGR
    return image


def _encoded(suffix: str = ".jpg", **size: int) -> bytes:
    return cv2.imencode(suffix, _image(**size))[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kind", ["path", "string", "bytes", "bytearray"])
def test_encoded_images_decode(tmp_path: Path, suffix: str, kind: str) -> None:
    data = _encoded(suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    source = {"path": path, "string": str(path), "bytes": data, "bytearray": bytearray(data)}[kind]
    bgr, rgb = load_image(source), load_image(source, "rgb")
    assert bgr.shape == (40, 60, 3)
    assert bgr[20, 30, 2] > 150 > bgr[20, 30, 0]
    assert np.array_equal(rgb, bgr[..., ::-1])


def test_exif_orientation_is_honoured() -> None:
    turned = load_image(turned_jpeg(np.zeros((40, 60, 3), np.uint8)))
    assert turned.shape == (60, 40, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (5, 7, 1), (5, 7, 4), (20000, 10, 3)])
def test_arrays_are_taken_as_they_are(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    assert load_image(array) is array


BAD_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "float": (np.zeros((4, 4, 3)), TypeError, r"uint8 .* got float64; .*image \* 255"),
    "int32": (np.zeros((4, 4, 3), np.int32), TypeError, "got int32"),
    "two channels": (np.zeros((4, 4, 2), np.uint8), SourceError, r"got shape \(4, 4, 2\)"),
    "batch": (np.zeros((1, 4, 4, 3), np.uint8), SourceError, r"got shape \(1, 4, 4, 3\)"),
    "empty": (np.zeros((0, 4, 3), np.uint8), SourceError, "not empty"),
    "list": ([[0]], TypeError, "got list"),
    "none": (None, TypeError, "got NoneType"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_other_objects_are_refused(case: str) -> None:
    source, error, words = BAD_ARRAYS[case]
    with pytest.raises(error, match=words):
        load_image(source)


BAD_FILES = {
    "truncated jpeg": ("a.jpg", _encoded()[:-200], "is truncated"),
    "truncated png": ("a.png", _encoded(".png")[:-20], "is truncated"),
    "only a header": ("a.jpg", b"\xff\xd8\xff", "is truncated"),
    "zero bytes": ("a.jpg", b"", r"is empty \(0 bytes\)"),
    "text": ("a.jpg", b"hello, I am no image\n" * 20, "is damaged, or not an image"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(tmp_path: Path, case: str) -> None:
    name, data, words = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=words) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_files_with_odd_ends_are_read() -> None:
    assert load_image(_encoded(".png") + b"\0" * 500).shape == (40, 60, 3)
    assert load_image(_encoded() + b"trailing bytes").shape == (40, 60, 3)
    jpeg = _encoded()
    assert load_image(jpeg[:2] + b"\xff\xff" + jpeg[2:]).shape == (40, 60, 3)  # fill bytes before a marker
    assert load_image(jpeg[:20] + b"\0\0\xff\0" + jpeg[20:]).shape == (40, 60, 3)  # stray bytes


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_still_truncated() -> None:
    thumbnail = _encoded(height=8, width=8)
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = _encoded()
    assert load_image(data[:2] + segment + data[2:]).shape == (40, 60, 3)
    with pytest.raises(SourceError, match="truncated"):
        load_image((data[:2] + segment + data[2:])[:-100])


@pytest.mark.parametrize(
    ("name", "words"),
    [("folder", "is a folder"), ("none.jpg", "no file"), ("a.mp4", r"is a video; .*stream\(\)")],
)
def test_paths_that_are_no_image_file(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"movie")
    with pytest.raises(SourceError, match=words):
        load_image(tmp_path / name)


@pytest.mark.parametrize("read", [load_image, lambda text: list(frames(text))], ids=["image", "frames"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:image/png;base64," + "iVBOR" * 900, r"^data:image/png.{1,60}\.\.\. is no file: .* its bytes"),
        ("data:image/png;base64,iVBOR", "iVBOR is no file: an image is a path or its bytes"),
        ("a" * 5000, r"^cannot read a{60}\.\.\.: "),
        ("a\0b.jpg", r"^'a\\x00b.jpg' is no path"),
    ],
    ids=["data URL", "short data URL", "long", "NUL"],
)
def test_text_that_can_be_no_path_is_a_source_error(read: Any, text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        read(text)
    assert len(str(caught.value)) < 200


def test_the_url_of_an_image_is_named_as_it_came() -> None:
    with pytest.raises(SourceError, match="^http://example.com/a.jpg is no file: .* fetch it"):
        load_image("http://example.com/a.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.png", "sub/c.png"):
        (tmp_path / name).write_bytes(_encoded(".png"))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_its_images_in_order(folder: Path) -> None:
    found = list(frames(folder))
    assert [Path(f.name).name for f in found] == ["a.png", "b.PNG"]
    assert [f.index for f in found] == [0, 1]
    assert found[0].time_s is None


def test_a_folder_is_read_in_natural_order_without_what_is_no_picture(folder: Path) -> None:
    for name in ("frame_10.png", "frame_2.png", "frame_02.png", "2.png"):
        (folder / name).write_bytes(_encoded(".png"))
    (folder / "._a.png").write_bytes(b"what a Mac leaves beside a picture")
    (folder / "sub.png").mkdir()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(_encoded(".png"))
    expected = ["2.png", "a.png", "b.PNG", "frame_02.png", "frame_2.png", "frame_10.png"]
    assert [Path(f.name).name for f in frames(folder)] == expected
    assert [Path(f.name).name for f in frames(str(folder / "*.[pP]*"))] == expected
    assert images_in(folder, deep=True) == [folder / name for name in (*expected, "sub/c.png")]


def test_globs_lists_arrays_and_single_files(folder: Path) -> None:
    found = [Path(f.name).relative_to(folder).as_posix() for f in frames(str(folder / "**/*.[pP]*"))]
    assert found == ["a.png", "b.PNG", "sub/c.png"]
    assert len(list(frames(str(folder / "[abs]*")))) == 2  # a folder is no image
    assert len(list(frames(folder / "a.png"))) == 1
    assert len(list(frames([folder / "a.png", _image()]))) == 2
    assert len(list(frames(_image()))) == 1


def test_a_file_url_is_the_path_that_it_names(folder: Path) -> None:
    (folder / "a.png").rename(folder / "a b.png")
    assert [f.name for f in frames((folder / "a b.png").as_uri())] == [str(folder / "a b.png")]
    assert len(list(frames(folder.as_uri()))) == 2


def test_an_unreadable_file_ends_a_folder_or_is_reported_and_left_out(folder: Path) -> None:
    (folder / "ab.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match="ab.jpg is empty"):
        list(frames(folder))
    errors: list[SourceError] = []
    found = list(frames(folder, on_unreadable=errors.append))
    assert [(Path(f.name).name, f.index, f.count) for f in found] == [("a.png", 0, 3), ("b.PNG", 2, 3)]
    assert ["ab.jpg is empty" in str(e) for e in errors] == [True]


def _write_video(path: Path, levels: tuple[int, ...]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in levels:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()


def test_a_video_under_another_name_is_still_a_video(tmp_path: Path) -> None:
    _write_video(tmp_path / "a.avi", (0, 100))
    (tmp_path / "a.avi").rename(tmp_path / "recording")
    assert len(list(frames(tmp_path / "recording"))) == 2
    (tmp_path / "picture").write_bytes(_encoded(".png"))
    assert [f.time_s for f in frames(tmp_path / "picture")] == [None]


@pytest.mark.parametrize("read", [load_image, lambda path: next(frames(path)).image], ids=["image", "frames"])
def test_an_image_file_of_several_pictures_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Any
) -> None:
    path = tmp_path / "scan.tif"
    cv2.imwritemulti(str(path), [_image(), _image()])
    assert read(path).shape == (40, 60, 3)
    assert f"{path} holds 2 pictures, and the first is taken" in caplog.text
    caplog.clear()
    cv2.imwrite(str(path), _image())
    read(path)
    assert caplog.text == ""


def test_a_gif_that_moves_is_a_video(tmp_path: Path) -> None:
    if not hasattr(cv2, "Animation"):
        pytest.skip("this OpenCV writes no GIF")
    animation = cv2.Animation()
    animation.frames, animation.durations = [_image()] * 3, np.array([100, 500, 100], np.int32)
    cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    assert [f.time_s for f in frames(tmp_path / "a.gif")] == pytest.approx([0, 0.1, 0.6])
    cv2.imwrite(str(tmp_path / "b.gif"), _image())
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


@pytest.mark.parametrize("name", ["a.png", "", "*.png", "red.avi"])
def test_whatever_is_decoded_has_the_order_that_was_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(_encoded(".png"))
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (60, 40))
    writer.write(_image())
    writer.release()
    for source in (str(tmp_path / name), [tmp_path / name]):
        if isinstance(source, str) or name == "a.png":
            assert next(frames(source, "rgb")).image[20, 30].argmax() == 0
            assert next(frames(source)).image[20, 30].argmax() == 2


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("empty", SourceError, "holds no image"),
        ("*.gif", SourceError, "no file matches"),
        ("none.mp4", SourceError, "no file"),
        (-1, SourceError, "no camera -1"),
        (True, TypeError, "got bool"),
        (1.5, TypeError, "got float"),
    ],
)
def test_sources_that_give_nothing(tmp_path: Path, source: Any, error: type[Exception], words: str) -> None:
    (tmp_path / "empty").mkdir()
    where = tmp_path / source if isinstance(source, str) else source
    with pytest.raises(error, match=words):
        list(frames(where))


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
        return (True, _image()) if self.left >= 0 else (False, None)

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
        (tmp_path / f"a{suffix}").write_bytes(5 * _encoded(".jpg"))
        assert [f.index for f in frames(tmp_path / f"a{suffix}")] == [0, 1, 2, 3, 4]


def test_a_file_that_is_no_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(SourceError, match="cannot open"):
        list(frames(path))


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(SourceError, match=f"cannot read {tmp_path}: Permission denied"):
        next(iter(frames(tmp_path)))
