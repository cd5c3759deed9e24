"""Labels by a teacher: they land where the teacher sees the joints, however the picture is turned."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import write_spot_bundle

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import BackendUnavailable, BundleError, SourceError
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.data.pseudo_labels import Views, label_persons, look, open_teacher

TWO = Skeleton("two", ("red", "blue"), (), (0.1, 0.1))
BOX = np.array([5.0, 5.0, 75.0, 65.0])
ONE_LOOK = Views((0,), (1.0,), False)


class SpotTeacher:
    """Sees the brightest red and the brightest blue pixel; is surest where red lies above blue."""

    skeleton = TWO

    def __call__(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = (int(v) for v in box)
        part = image[y1:y2, x1:x2]
        spots = [np.unravel_index(part[..., c].argmax(), part.shape[:2]) for c in (2, 0)]
        places = np.array([(x + x1 + 0.5, y + y1 + 0.5) for y, x in spots])
        sure = 0.9 if places[0, 1] < places[1, 1] else 0.2
        return np.column_stack([places, [sure, sure / 2]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures: red above blue, and, in the other, red to the right of blue."""
    images, annotations = [], []
    for i, (red, blue) in enumerate([((20, 10), (30, 50)), ((60, 32), (12, 30))]):
        picture = np.zeros((70, 80, 3), np.uint8)
        picture[red[1], red[0], 2] = picture[blue[1], blue[0], 0] = 255
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 70})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 70, 60]})
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(tree))
    return tmp_path


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_answer_about_a_mirrored_picture_is_mirrored_back(folder: Path, turns: int) -> None:
    """For a box that is not in the middle of the picture and holds only the red spot."""
    picture = cv2.imread(str(folder / "1.png"))
    box = np.array([40.0, 20.0, 75.0, 60.0])
    joints = look(SpotTeacher(), picture, box, Views((turns,), (1.0,), True))
    np.testing.assert_allclose(joints[0, :2], [60.5, 32.5], atol=1e-9)
    assert joints[0, 2] in (0.2, 0.9)  # both looks agree


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_answer_about_a_turned_picture_is_turned_back(folder: Path, turns: int) -> None:
    picture = cv2.imread(str(folder / "0.png"))
    joints = look(SpotTeacher(), picture, BOX, Views((turns,), (1.0,), False))
    np.testing.assert_allclose(joints[:, :2], [[20.5, 10.5], [30.5, 50.5]], atol=1e-9)


def test_persons_are_labelled_in_the_turn_that_the_teacher_is_surest_of(folder: Path) -> None:
    out = folder / "labels" / "out.json"
    made = label_persons(
        folder / "boxes.json",
        folder,
        out,
        SpotTeacher(),
        teacher_name="spots",
        min_score=0.45,
        views=Views(grows=(1.0,), mirrored=False),
    )
    assert (made.persons, made.joints, made.asked) == (2, 4, 2)
    table = read_coco_keypoints(out, folder, TWO, unlabelled="unknown")
    np.testing.assert_allclose(table.joints, [[[20.5, 10.5], [30.5, 50.5]], [[60.5, 32.5], [12.5, 30.5]]])
    assert json.loads(out.read_text(encoding="utf-8"))["info"]["labelled_by"] == "spots"


def test_a_teacher_may_be_shown_more_than_the_box(folder: Path) -> None:
    class BoxTeacher:
        """Says what it was shown."""

        skeleton = TWO

        def __call__(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
            return np.column_stack([box.reshape(2, 2), [1, 1]])

    out = folder / "out.json"
    views = Views((0,), (1.2,), False)
    label_persons(folder / "boxes.json", folder, out, BoxTeacher(), teacher_name="box", views=views)
    table = read_coco_keypoints(out, folder, TWO, unlabelled="unknown")
    np.testing.assert_allclose(table.joints[0], [[5 - 7, 5 - 6], [75 + 7, 65 + 6]])
    np.testing.assert_allclose(table.boxes[0], [5, 5, 75, 65])  # the person's own is kept
    assert json.loads(out.read_text(encoding="utf-8"))["info"]["grows"] == [1.2]


class MoodyTeacher:
    """Two mirror joints; the answers are a list, one for each look, in picture coordinates."""

    skeleton = Skeleton("pair", ("left_hand", "right_hand"), (), (0.1, 0.1))

    def __init__(self, *answers: list[list[float]]) -> None:
        self._answers = list(answers)

    def __call__(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return np.array(self._answers.pop(0))


def test_the_place_that_most_looks_agree_on_wins_over_the_one_that_one_is_sure_of() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    teacher = MoodyTeacher(
        [[10, 10, 0.4], [50, 50, 0.6]],
        [[90, 90, 0.7], [50, 54, 0.2]],
        [[13, 10, 0.4], [50, 50, 0.4]],
    )
    joints = look(teacher, picture, np.array([0.0, 0, 100, 100]), Views((0,), (0.9, 1.0, 1.1), False))
    np.testing.assert_allclose(joints, [[11.5, 10, 0.8 / 3], [50, 50 + 0.8 / 1.2, 0.4]])


def test_a_mirrored_look_says_the_other_side_in_the_other_half() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    plain, mirrored = [[30, 20, 0.5], [70, 24, 0.5]], [[30, 24, 0.5], [70, 20, 0.5]]
    joints = look(
        MoodyTeacher(plain, mirrored), picture, np.array([10.0, 0, 80, 100]), Views((0,), (1.0,), True)
    )
    np.testing.assert_allclose(joints, plain)


def test_joints_that_no_look_is_sure_of_have_a_place_and_no_score() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    teacher = MoodyTeacher([[10, 10, 0], [50, 50, 0]])
    joints = look(teacher, picture, np.array([0.0, 0, 100, 100]), Views((0,), (1.0,), False))
    np.testing.assert_allclose(joints, [[10, 10, 0], [50, 50, 0]])


def test_unsure_joints_stay_unlabelled_and_unsure_persons_are_left_out(folder: Path) -> None:
    out = folder / "out.json"
    made = label_persons(
        folder / "boxes.json",
        folder,
        out,
        SpotTeacher(),
        teacher_name="spots",
        min_score=0.5,
        views=ONE_LOOK,
    )
    assert (made.persons, made.joints, made.asked) == (1, 1, 2)
    table = read_coco_keypoints(out, folder, TWO, unlabelled="unknown")
    assert table.labelled.tolist() == table.known.tolist() == [[True, False]]
    with pytest.raises(SourceError, match="found no joint"):
        label_persons(folder / "boxes.json", folder, out, SpotTeacher(), teacher_name="spots", min_score=0.95)
    assert json.loads(out.read_text(encoding="utf-8"))["annotations"]  # the earlier file is still there


def test_a_bundle_is_a_teacher(folder: Path) -> None:
    teacher = open_teacher(str(write_spot_bundle(folder / "bundle")))
    assert teacher.skeleton.keypoints == ("nose", "left_hand", "right_hand")
    joints = teacher(cv2.imread(str(folder / "0.png")), np.array([5.0, 5.0, 75.0, 65.0]))
    np.testing.assert_allclose(joints[:, :2], [[20.5, 10.5]] * 3, atol=4)


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    boxes = folder / "boxes.json"
    with pytest.raises(SourceError, match="give another path"):
        label_persons(boxes, folder, boxes, SpotTeacher(), teacher_name="spots")
    with pytest.raises(SourceError, match=r"no annotation file .*nowhere\.json"):
        label_persons(folder / "nowhere.json", folder, folder / "o.json", SpotTeacher(), teacher_name="s")
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"1\.png is empty"):
        label_persons(boxes, folder, folder / "o.json", SpotTeacher(), teacher_name="spots")
    assert not (folder / "o.json").exists()
    (tmp_path / "empty.tflite").write_bytes(b"nothing")
    with pytest.raises((BackendUnavailable, BundleError), match=r"empty\.tflite"):
        open_teacher(str(tmp_path / "empty.tflite"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": []}, "no person in it"),
        ({"categories": [{"id": 1, "name": "dog"}]}, "no person in it"),
        ({"annotations": [{"id": 5, "image_id": 0, "bbox": [1, 2, 0, 3]}]}, "annotation 5: bbox must"),
        (
            {"annotations": [{"id": 5, "image_id": 9, "bbox": [1, 2, 3, 3]}]},
            "annotation 5: the file has no image 9",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 0, "category_id": 1, "bbox": [90, 2, 3, 3]}]},
            "annotation 5 has a box outside of",
        ),
        ({"annotations": ["a"]}, "not a COCO JSON with person boxes"),
    ],
)
def test_annotations_that_cannot_be_labelled(folder: Path, change: dict[str, object], words: str) -> None:
    tree = json.loads((folder / "boxes.json").read_text(encoding="utf-8")) | change
    (folder / "boxes.json").write_text(json.dumps(tree))
    with pytest.raises(SourceError, match=words):
        label_persons(folder / "boxes.json", folder, folder / "o.json", SpotTeacher(), teacher_name="s")
    assert not (folder / "o.json").exists()


def test_who_cannot_be_seen_is_left_out_where_that_is_asked_for(folder: Path) -> None:
    boxes = folder / "boxes.json"
    tree = json.loads(boxes.read_text(encoding="utf-8"))
    tree["annotations"].append({"id": 2, "image_id": 0, "category_id": 1, "bbox": [90, 2, 3, 3]})
    boxes.write_text(json.dumps(tree))
    (folder / "1.png").write_bytes(b"")
    left_out: list[SourceError] = []
    made = label_persons(
        boxes, folder, folder / "o.json", SpotTeacher(), teacher_name="s", on_unusable=left_out.append
    )
    assert (made.persons, made.asked) == (1, 3)
    (person,) = json.loads((folder / "o.json").read_text(encoding="utf-8"))["annotations"]
    assert person["id"] == 0
    for error, words in zip(left_out, ("1.png is empty", "annotation 2 has a box outside of"), strict=True):
        assert words in str(error)
    (folder / "0.png").write_bytes(b"")
    (folder / "o.json").unlink()
    with pytest.raises(SourceError, match="of none of its 3 persons there is a picture to look at"):
        label_persons(
            boxes, folder, folder / "o.json", SpotTeacher(), teacher_name="s", on_unusable=left_out.append
        )
    assert not (folder / "o.json").exists()


def test_the_persons_of_a_detection_set_become_category_1(folder: Path) -> None:
    tree = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    tree["categories"] = [{"id": 1, "name": "dog"}, {"id": 4, "name": "person"}]
    tree["annotations"][1] |= {"category_id": 4, "area": 12.5, "segmentation": []}
    (folder / "boxes.json").write_text(json.dumps(tree))
    made = label_persons(folder / "boxes.json", folder, folder / "o.json", SpotTeacher(), teacher_name="s")
    assert (made.persons, made.asked) == (1, 1)
    (person,) = json.loads((folder / "o.json").read_text(encoding="utf-8"))["annotations"]
    assert (person["id"], person["image_id"], person["category_id"], person["area"]) == (1, 1, 1, 12.5)


def test_where_the_labels_cannot_go_is_said_before_the_work(folder: Path) -> None:
    class Busy(SpotTeacher):
        def __call__(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
            pytest.fail("it was asked")

    (folder / "file").write_text("x")
    with pytest.raises(OSError, match=r"o\.json"):
        label_persons(folder / "boxes.json", folder, folder / "file" / "o.json", Busy(), teacher_name="s")
