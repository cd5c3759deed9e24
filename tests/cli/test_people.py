"""``lfpose data people``: from a folder of photos to a question sheet."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge.cli import people
from lfpose_edge.coco import read_coco_boxes
from lfpose_edge.skeleton import LSP14


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one in a folder of its own; how bright they are says how many people are on them."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, level in (("a.png", 10), ("b.jpg", 0), ("more/c.png", 20)):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), level, np.uint8))
    return folder


def test_boxes_are_what_the_detector_finds_and_begin_a_sheet(
    lfpose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = round(image.mean() / 10)
        corners = np.array([[2.0, 3.0, 22.0, 33.0], [30.5, 4.0, 55.0, 39.0]], np.float32)
        return corners[:count], np.array([0.9, 0.5], np.float32)[:count]

    asked: list[str | None] = []
    monkeypatch.setattr(people, "resolve_detector", lambda name: asked.append(name) or found)
    done = lfpose("data", "people", photos, "--out", "people.json", "--detector", "mine.onnx")
    assert (done.code, asked) == (0, ["mine.onnx"]), done.err
    assert "wrote people.json: 3 people in 2 of 3 images" in done.err
    table = read_coco_boxes(tmp_path / "people.json", photos, LSP14)
    assert [path.relative_to(photos).as_posix() for path in table.images] == ["a.png", *["more/c.png"] * 2]
    np.testing.assert_allclose(table.boxes, [[2, 3, 22, 33], [2, 3, 22, 33], [30.5, 4, 55, 39]])
    np.testing.assert_allclose(table.areas, 0.53 * np.array([600, 600, 857.5]))  # nobody drew an outline
    tree = json.loads((tmp_path / "people.json").read_text(encoding="utf-8"))
    assert [round(a["score"], 3) for a in tree["annotations"]] == [0.9, 0.9, 0.5]
    assert tree["images"][0] == {"id": 1, "file_name": "a.png", "width": 60, "height": 40}

    assert lfpose("tags", "make", "people.json", photos, "--regions", "2", "--out", "q.csv").code == 0
    assert len((tmp_path / "q.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 2
    assert lfpose("tags", "page", "q.csv", photos, "--out", "page.html").code == 0


def test_a_new_sheet_does_not_take_the_place_of_answers_or_of_its_source(
    lfpose, photos: Path, tmp_path: Path
) -> None:
    assert lfpose("data", "people", photos, "--out", "people.json", "--detector", "none").code == 0
    assert lfpose("tags", "make", "people.json", photos, "--regions", "1", "--out", "made.csv").code == 0
    text = (tmp_path / "made.csv").read_text(encoding="utf-8")
    (tmp_path / "answered.csv").write_text(text.replace(",,,", ",no,,", 1))
    for out in ("people.json", "answered.csv"):
        before = (tmp_path / out).read_bytes()
        done = lfpose("tags", "make", "people.json", photos, "--out", out)
        assert (done.code, "give another" in done.err) == (1, True), done.err
        assert (tmp_path / out).read_bytes() == before
    (tmp_path / "odd.csv").write_text(text.replace(",,,", ",perhaps,,", 1))
    (tmp_path / "utf16.csv").write_text(text.replace(",,,", ",no,,", 1), encoding="utf-16")
    assert lfpose("tags", "make", "people.json", photos, "--out", "q.csv").code == 0
    assert lfpose("tags", "make", "people.json", photos, "--regions", "2", "--out", "q.csv").code == 0
    (tmp_path / "q.json").write_text((tmp_path / "people.json").read_text(encoding="utf-8"))
    keypoints = json.loads((tmp_path / "people.json").read_text(encoding="utf-8"))
    keypoints["categories"][0]["keypoints"] = list(LSP14.keypoints)
    for person in keypoints["annotations"]:
        person["keypoints"] = [30, 20, 2] * len(LSP14)
    (tmp_path / "located.json").write_text(json.dumps(keypoints))
    simulate = ("tags", "simulate", "q.csv", "located.json", photos, "--out")
    shutil.copy(tmp_path / "q.csv", tmp_path / "sheet.html")
    for command in (
        ("tags", "make", "people.json", photos, "--out", "odd.csv"),
        ("tags", "make", "people.json", photos, "--out", "utf16.csv"),
        ("tags", "make", "people.json", photos, "--out", "answered.csv", "--skeleton", "coco17"),
        ("tags", "make", "people.json", photos, "--out", "q.json"),
        (*simulate, "answered.csv"),
        (*simulate, "located.json"),
        (*simulate, "q.csv"),
        ("tags", "page", "sheet.html", photos, "--out", "sheet.html"),
    ):
        before = (tmp_path / command[-1]).read_bytes() if command[-1] != "coco17" else b""
        done = lfpose(*command)
        assert (done.code, "give another" in done.err) == (1, True), (command, done.err)
        if before:
            assert (tmp_path / command[-1]).read_bytes() == before
    assert (tmp_path / "answered.csv").read_text(encoding="utf-8") != text
    assert lfpose(*simulate, "simulated.csv").code == 0
    (photos / "a.png").unlink()
    done = lfpose("tags", "make", "people.json", photos, "--out", "other.csv")
    assert (done.code, "names an image that is not there" in done.err) == (1, True)


def test_the_next_command_can_be_pasted(lfpose, photos: Path, tmp_path: Path) -> None:
    odd = photos.rename(tmp_path / "my photos")
    assert lfpose("data", "people", odd, "--out", "people.json", "--detector", "none").code == 0
    made = lfpose("tags", "make", "people.json", odd, "--out", "my q.csv", "--skeleton", "coco17")
    command = shlex.split(made.err.rpartition("lfpose tags page ")[2])
    assert lfpose("tags", "page", *command).code == 0
    assert "nose" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_photos_that_no_json_can_name_and_previews(lfpose, photos: Path, tmp_path: Path) -> None:
    (photos / "._a.png").write_bytes(b"what a Mac leaves beside a picture")
    assert lfpose("data", "people", photos, "--out", "people.json", "--detector", "none").code == 0
    done = lfpose("data", "people", photos, "--out", photos / "a.png", "--detector", "none")
    assert (done.code, "ends in .json" in done.err) == (1, True)
    assert cv2.imread(str(photos / "a.png")) is not None
    shutil.copy(photos / "a.png", os.fsencode(photos) + b"/caf\xe9.png")
    done = lfpose("data", "people", photos, "--out", "people.json", "--detector", "none")
    assert (done.code, "rename it" in done.err) == (1, True)
    odd = photos / os.fsdecode(b"caf\xe9")
    odd.with_suffix(".png").unlink()
    odd.mkdir()
    shutil.copy(photos / "a.png", odd)
    done = lfpose("data", "people", photos, "--out", "people.json", "--detector", "none")
    assert (done.code, "rename it" in done.err) == (1, True)


def test_keep_going_leaves_out_photos_that_cannot_be_read_and_says_so(
    lfpose, photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[: len(whole) // 2])
    people_of = ("data", "people", photos, "--out", "people.json", "--detector", "none")
    done = lfpose(*people_of)
    assert (done.code, "b.jpg is truncated" in done.err) == (1, True), done.err
    assert not (tmp_path / "people.json").exists()
    done = lfpose(*people_of, "--keep-going")
    assert done.code == 1
    assert done.err.splitlines() == [
        "wrote people.json: 2 people in 2 of 2 images",
        f"left out: {photos / 'b.jpg'} is truncated: the end of the image is missing",
    ]
    table = read_coco_boxes(tmp_path / "people.json", photos, LSP14)
    assert [path.name for path in table.images] == ["a.png", "c.png"]
    for photo in photos.rglob("*.*"):
        photo.write_bytes(b"")
    done = lfpose(*people_of, "--keep-going")
    *left_out, said = done.err.splitlines()
    assert (done.code, said) == (1, f"error: none of the 3 images can be used, such as {photos / 'a.png'}")
    assert len(left_out) == 3


def test_without_a_detector_every_image_is_of_one_person(lfpose, photos: Path, tmp_path: Path) -> None:
    assert lfpose("data", "people", photos, "--out", "people.json", "--detector", "none").code == 0
    table = read_coco_boxes(tmp_path / "people.json", photos, LSP14)
    assert len(table) == 3
    np.testing.assert_array_equal(table.boxes, [[0, 0, 60, 40]] * 3)


def test_a_folder_without_people_writes_nothing(
    lfpose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    monkeypatch.setattr(people, "resolve_detector", lambda _: lambda image: nobody)
    done = lfpose("data", "people", photos, "--out", "people.json")
    assert (done.code, "found nobody in the 3 images" in done.err) == (1, True)
    assert not (tmp_path / "people.json").exists()
