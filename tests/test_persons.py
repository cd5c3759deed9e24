"""Reading located persons from COCO keypoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import turned_jpeg

from lfpose_edge.coco import persons_of, read_coco_boxes, read_coco_keypoints, uncounted_persons
from lfpose_edge.errors import SourceError
from lfpose_edge.persons import unlabelled_persons
from lfpose_edge.skeleton import COCO17, LSP14


def _tree(**changes: Any) -> dict[str, Any]:
    person = {"id": 7, "image_id": 3, "bbox": [1, 2, 30, 40], "keypoints": [5, 6, 2, 0, 0, 0], "iscrowd": 0}
    return {
        "images": [{"id": 3, "file_name": "a.png"}],
        "annotations": [{**person, **changes}],
        "categories": [{"id": 1, "keypoints": ["left_knee", "nose"]}],
    }


def _categories(*names: str) -> dict[str, Any]:
    """A person each of categories that have joints, of whose names only the person's are known here."""
    joints = {"person": ["left_knee", "nose"], "dog": ["withers", "nose"], "cat": ["tail", "left_knee"]}
    kinds = [{"id": i, "name": name, "keypoints": joints[name]} for i, name in enumerate(names, 1)]
    person = _tree()["annotations"][0]
    animals = [{**person, "id": 10 + kind["id"], "category_id": kind["id"]} for kind in kinds]
    return {**_tree(), "annotations": animals, "categories": kinds}


def _read(tmp_path: Path, tree: Any, *, image: bool = True) -> Any:
    (tmp_path / "a.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    if image:
        (tmp_path / "a.png").write_bytes(b"x")
    return read_coco_keypoints(tmp_path / "a.json", tmp_path, LSP14)


def test_joints_are_matched_by_name_and_become_continuous(tmp_path: Path) -> None:
    persons = _read(tmp_path, _tree())
    knee = LSP14.index("left_knee")
    assert len(persons) == 1
    assert persons.joints[0, knee].tolist() == [5.5, 6.5]
    assert persons.labelled[0].nonzero()[0].tolist() == [knee]
    assert persons.boxes[0].tolist() == [1, 2, 31, 42]
    assert (persons.image_ids[0], persons.annotation_ids[0]) == (3, 7)
    assert persons.areas[0] == 0.53 * 30 * 40
    assert _read(tmp_path, _tree(area=50)).areas[0] == 50


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ("{", "not a COCO-keypoints JSON"),
        ("[]", "not a COCO-keypoints JSON"),
        ({"images": [], "annotations": []}, "not a COCO-keypoints JSON"),
        ({**_tree(), "categories": [{"keypoints": ["tail"]}]}, "none of its joints"),
        (_tree(keypoints=[0] * 6), "no person has a labelled joint"),
        (_tree(iscrowd=1), "no person has a labelled joint"),
        ({**_tree(), "images": _tree()["images"] * 2}, "two images share an id"),
        ({**_tree(), "annotations": [3]}, "not a COCO-keypoints JSON"),
        (_tree(image_id=4), "annotation 7: the file has no image 4"),
        (_tree(image_id=[3]), r"annotation 7: the file has no image \[3\]"),
        (_tree(bbox=[1, 2, 3]), "annotation 7: bbox must be x, y, width, height"),
        (_tree(bbox=[1, 2, 0, 9]), "annotation 7: bbox must .* with an area"),
        (_tree(bbox=[1, 2, float("nan"), 9]), "annotation 7: bbox must be .*finite"),
        (_tree(bbox=None), "annotation 7: bbox .* got None"),
        (_tree(area="large"), "annotation 7: area must be a finite number from 0 on, got 'large'"),
        (_tree(area=-5), "annotation 7: area must be a finite number from 0 on, got -5"),
        (_tree(bbox=[10**400, 2, 3, 4]), "annotation 7: bbox must be .*finite"),
        (_tree(image_id=2**64), "annotation 7: the file has no image 18446744073709551616"),
        ("[" * 100_000, "not a COCO-keypoints JSON"),
        (_categories("dog", "cat"), "not a COCO-keypoints JSON .* those that have are: dog, cat"),
        (_categories("person", "person"), "not a COCO-keypoints JSON .*: person, person"),
        ({**_tree(), "categories": [{"keypoints": ["nose", "nose"]}]}, "a joint appears twice"),
        (_tree(keypoints=[5, 6, 2]), "annotation 7: keypoints must be x, y, v of 2 joints"),
        (_tree(keypoints=[5, 6, 2, 0, 0, float("inf")]), "annotation 7: keypoints must be .* finite"),
        (_tree(keypoints=[5, 6, 5, 0, 0, 0]), "annotation 7: a keypoint's v must be 0"),
        (_tree(id=None), "annotation None: it needs an id"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, tree: Any, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        _read(tmp_path, tree)


def test_animals_are_no_persons(tmp_path: Path) -> None:
    tree = _categories("dog", "person", "cat")
    persons = _read(tmp_path, tree)
    assert persons.annotation_ids.tolist() == [12]
    assert persons.labelled[0].nonzero()[0].tolist() == [LSP14.index("left_knee")]
    boxes = read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14)
    assert boxes.annotation_ids.tolist() == [12]


def test_persons_are_those_with_joints_where_no_category_is_called_so(tmp_path: Path) -> None:
    tree = _tree()
    human, horse = {**tree["categories"][0], "name": "human"}, {"id": 2, "name": "horse"}
    tree["categories"] = [human, horse]
    tree["annotations"].append({**tree["annotations"][0], "id": 8, "category_id": 2})
    assert _read(tmp_path, tree).annotation_ids.tolist() == [7]
    assert read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14).annotation_ids.tolist() == [7]
    tree["categories"] = [horse, {"id": 1, "name": "person"}]  # as detectors' files have it
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14).annotation_ids.tolist() == [7]
    tree["categories"] = [{"id": 2, "name": "person"}, {**human, "name": "athlete"}]
    assert _read(tmp_path, tree).annotation_ids.tolist() == [7]
    assert [a["id"] for a in persons_of(tree)] == [7]


def test_who_is_not_asked_for_is_known(tmp_path: Path) -> None:
    """Crowds, and persons without a joint whose boxes can be used; other entries are not persons."""
    tree = _categories("person", "dog")
    nobody = {**tree["annotations"][0], "keypoints": [0] * 6}
    bare = {"category_id": 1, "bbox": [1, 2, 30, 40]}  # which nobody has looked at until here
    tree["annotations"] += [
        {**nobody, "id": 20},
        {**nobody, "id": 21, "bbox": [1, 2, 0, 0]},
        {**nobody, "id": 22, "category_id": 2},
        {**tree["annotations"][0], "id": 23, "iscrowd": 1, "area": 9},
        {**bare, "id": 24, "image_id": 3, "area": "large"},
        {**bare, "id": 25, "image_id": [3]},
        {**bare, "id": 26, "iscrowd": 1},
    ]
    _read(tmp_path, tree)
    found = {"image_id": 3, "bbox": [1, 2, 30, 40]}
    assert uncounted_persons(tmp_path / "a.json") == [
        {**found, "area": 0.53 * 30 * 40, "iscrowd": 0},
        {**found, "area": 9, "iscrowd": 1},
        {**found, "area": 0.53 * 30 * 40, "iscrowd": 0},
    ]


@pytest.mark.parametrize(("iscrowd", "count"), [(0, 1), ("0", 1), (False, 1), (None, 1), (1, 0), ("1", 0)])
def test_a_crowd_is_no_person(iscrowd: object, count: int, tmp_path: Path) -> None:
    tree = _tree(iscrowd=iscrowd)
    tree["annotations"] += _tree(id=8)["annotations"]
    assert len(_read(tmp_path, tree)) == 1 + count


@pytest.mark.parametrize(("unlabelled", "also"), [("absent", ["left_hip"]), ("unknown", [])])
def test_of_a_joint_without_a_column_nothing_is_known(
    unlabelled: Any, also: list[str], tmp_path: Path
) -> None:
    """COCO has no neck, which must not teach a network that nobody has one."""
    tree = _tree(keypoints=[5, 6, 2, 0, 0, 0])
    tree["categories"][0]["keypoints"] = ["left_knee", "left_hip"]
    _read(tmp_path, tree)
    persons = read_coco_keypoints(
        tmp_path / "a.json", tmp_path, LSP14, unlabelled=unlabelled, names={"head_top": None}
    )
    known = {LSP14.keypoints[k] for k in persons.known[0].nonzero()[0]}
    assert known == {"left_knee", *also}


@pytest.mark.parametrize("names", [{"left_nee": "left_knee"}, {"left_nee": None}])
def test_a_joint_that_the_skeleton_lacks_is_named(tmp_path: Path, names: dict[str, str | None]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_tree()))
    with pytest.raises(
        SourceError, match=r"no joint 'left_nee' in skeleton 'lsp14'.*did you mean 'left_knee'"
    ):
        read_coco_keypoints(tmp_path / "a.json", tmp_path, LSP14, names=names)


def test_annotations_are_of_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(turned_jpeg(np.zeros((40, 60, 3), np.uint8)))
    tree = _tree()
    assert _read(tmp_path, tree, image=False).image(0).shape == (40, 60, 3)
    assert read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14).image(0).shape == (40, 60, 3)
    found = unlabelled_persons([tmp_path / "a.png"], np.array([[0.0, 0, 9, 9]]), LSP14)  # by a detector
    assert found.image(0).shape == (60, 40, 3)


@pytest.mark.parametrize("columns", [5, True, {"neck": 1}, ["neck", "neck"]])
def test_joints_that_are_no_list_of_names_are_refused(columns: object, tmp_path: Path) -> None:
    tree = _tree()
    tree["categories"][0]["keypoints"] = columns
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(SourceError, match=r"a\.json"):
        read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14, names={"neck": "left_nee"})


def test_boxes_are_refused_where_two_images_share_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**_tree(), "images": _tree()["images"] * 2}))
    with pytest.raises(SourceError, match="two images share an id"):
        read_coco_boxes(tmp_path / "a.json", tmp_path, LSP14)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.png"):
        _read(tmp_path, _tree(), image=False)


def test_missing_annotations_say_where_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="LFPOSE_DATA"):
        read_coco_keypoints(tmp_path / "none.json", tmp_path, COCO17)


def test_persons_can_be_chosen(tmp_path: Path) -> None:
    tree = _tree()
    tree["annotations"] = [{**tree["annotations"][0], "id": i, "bbox": [i, 0, 9, 9]} for i in range(5)]
    persons = _read(tmp_path, tree)
    some = persons.chosen([3, 1])
    assert some.annotation_ids.tolist() == [3, 1]
    assert some.boxes[:, 0].tolist() == [3, 1]
    assert some.images == [tmp_path / "a.png"] * 2
    assert persons.first(2).annotation_ids.tolist() == [0, 1]
    assert len(persons.first(99)) == 5


def test_a_damaged_image_of_a_person_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.png is damaged, or not an image"):
        _read(tmp_path, _tree()).image(0)


@pytest.mark.parametrize("read", [read_coco_keypoints, read_coco_boxes])
@pytest.mark.parametrize("bbox", [[60, 5, 9, 9], [5, 40, 9, 9], [-9, 5, 9, 9], [5, -9, 9, 9.0]], ids=str)
def test_a_box_outside_its_image_is_named(read: Any, bbox: list[float], tmp_path: Path) -> None:
    """Right of and below the image only if the file states its size; boxes may extend beyond the image."""
    tree = _tree(bbox=bbox)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.json").write_text(json.dumps(tree))
    if min(bbox) < 0:
        with pytest.raises(SourceError, match=r"annotation 7: bbox .* is outside its image$"):
            read(tmp_path / "a.json", tmp_path, LSP14)
    else:
        assert len(read(tmp_path / "a.json", tmp_path, LSP14)) == 1
    tree["images"][0] |= {"width": 60, "height": 40}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(SourceError, match="is outside its image, which is 60 wide and 40 tall"):
        read(tmp_path / "a.json", tmp_path, LSP14)
    tree["images"][0] |= {"width": 0, "height": 0}  # no information
    (tmp_path / "a.json").write_text(json.dumps(tree | {"annotations": _tree()["annotations"]}))
    assert len(read(tmp_path / "a.json", tmp_path, LSP14)) == 1
    tree["images"][0] |= {"width": 60, "height": 40}
    tree["annotations"][0]["bbox"] = [-8, 39, 9, 9]
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert len(read(tmp_path / "a.json", tmp_path, LSP14)) == 1


@pytest.mark.parametrize("read", [read_coco_keypoints, read_coco_boxes])
def test_a_byte_order_mark_is_no_matter(read: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.json").write_text(json.dumps(_tree()), encoding="utf-8-sig")
    assert len(read(tmp_path / "a.json", tmp_path, LSP14)) == 1


def test_nobody_asks_where_the_box_of_somebody_without_joints_is(tmp_path: Path) -> None:
    tree = _tree()
    tree["images"][0] |= {"width": 60, "height": 40}
    stray = {**tree["annotations"][0], "id": 8, "bbox": [90, 2, 3, 3], "keypoints": [0] * 6}
    tree["annotations"].append(stray)
    assert len(_read(tmp_path, tree)) == 1
