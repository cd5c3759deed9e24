"""Images and frames, whatever they come as; and what is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import encoded, red_image, turned_jpeg

from lfpose_edge.errors import SourceError
from lfpose_edge.sources import frames, images_in, load_image


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kind", ["path", "string", "bytes", "bytearray"])
def test_encoded_images_decode(tmp_path: Path, suffix: str, kind: str) -> None:
    data = encoded(suffix)
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
    "truncated jpeg": ("a.jpg", encoded()[:-200], "is truncated"),
    "truncated png": ("a.png", encoded(".png")[:-20], "is truncated"),
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
    assert load_image(encoded(".png") + b"\0" * 500).shape == (40, 60, 3)
    assert load_image(encoded() + b"trailing bytes").shape == (40, 60, 3)
    jpeg = encoded()
    assert load_image(jpeg[:2] + b"\xff\xff" + jpeg[2:]).shape == (40, 60, 3)  # fill bytes before a marker
    assert load_image(jpeg[:20] + b"\0\0\xff\0" + jpeg[20:]).shape == (40, 60, 3)  # stray bytes


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_still_truncated() -> None:
    thumbnail = encoded(height=8, width=8)
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded()
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
        (tmp_path / name).write_bytes(encoded(".png"))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_its_images_in_order(folder: Path) -> None:
    found = list(frames(folder))
    assert [Path(f.name).name for f in found] == ["a.png", "b.PNG"]
    assert [f.index for f in found] == [0, 1]
    assert found[0].time_s is None


def test_a_folder_is_read_in_natural_order_without_what_is_no_picture(folder: Path) -> None:
    for name in ("frame_10.png", "frame_2.png", "frame_02.png", "2.png"):
        (folder / name).write_bytes(encoded(".png"))
    (folder / "._a.png").write_bytes(b"what a Mac leaves beside a picture")
    (folder / "sub.png").mkdir()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(encoded(".png"))
    expected = ["2.png", "a.png", "b.PNG", "frame_02.png", "frame_2.png", "frame_10.png"]
    assert [Path(f.name).name for f in frames(folder)] == expected
    assert [Path(f.name).name for f in frames(str(folder / "*.[pP]*"))] == expected
    assert images_in(folder, deep=True) == [folder / name for name in (*expected, "sub/c.png")]


def test_of_a_list_of_files_those_that_cannot_be_read_are_left_out_too(folder: Path) -> None:
    errors: list[SourceError] = []
    files = [folder / "a.png", folder / "none.png", folder / "b.PNG"]
    found = list(frames(files, on_unreadable=errors.append))
    assert [(f.name, f.index, f.count) for f in found] == [(str(files[0]), 0, 3), (str(files[2]), 2, 3)]
    assert len(errors) == 1
    with pytest.raises(SourceError, match=r"none\.png"):
        list(frames(files))
    with pytest.raises(SourceError):  # bytes are no file, and have no name
        list(frames([b""], on_unreadable=errors.append))


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (None, "cv2.imread gives None"),
        ([np.zeros((4, 4), np.uint8)], "there are predict"),
        (type("Image", (), {"__module__": "PIL.Image"})(), "numpy.asarray"),
        (type("Tensor", (), {"__module__": "torch"})(), r"tensor\.numpy"),
        (object(), "got object$"),
    ],
    ids=["none", "list", "PIL", "torch", "object"],
)
def test_what_is_no_image_is_told_how_to_become_one(given: object, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        load_image(given)


def test_channels_first_is_told_how_to_become_last() -> None:
    with pytest.raises(SourceError, match=r"transpose\(1, 2, 0\)"):
        load_image(np.zeros((3, 40, 60), np.uint8))


def test_images_in_the_folders_of_a_folder_are_asked_for_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(SourceError, match=r"give '.*/\*\*/\*\.jpg'"):
        images_in(tmp_path)


def test_globs_lists_arrays_and_single_files(folder: Path) -> None:
    found = [Path(f.name).relative_to(folder).as_posix() for f in frames(str(folder / "**/*.[pP]*"))]
    assert found == ["a.png", "b.PNG", "sub/c.png"]
    assert len(list(frames(str(folder / "[abs]*")))) == 2  # a folder is no image
    assert len(list(frames(folder / "a.png"))) == 1
    assert len(list(frames([folder / "a.png", red_image()]))) == 2
    assert len(list(frames(red_image()))) == 1


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


@pytest.mark.parametrize("read", [load_image, lambda path: next(frames(path)).image], ids=["image", "frames"])
def test_an_image_file_of_several_pictures_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Any
) -> None:
    path = tmp_path / "scan.tif"
    cv2.imwritemulti(str(path), [red_image(), red_image()])
    assert read(path).shape == (40, 60, 3)
    assert f"{path} holds 2 pictures, and the first is taken" in caplog.text
    caplog.clear()
    cv2.imwrite(str(path), red_image())
    read(path)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["a.png", "", "*.png", "red.avi"])
def test_whatever_is_decoded_has_the_order_that_was_asked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png"))
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (60, 40))
    writer.write(red_image())
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


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(SourceError, match=f"cannot read {tmp_path}: Permission denied"):
        next(iter(frames(tmp_path)))
