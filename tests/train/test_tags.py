"""Question sheets: fixed, made from boxes alone, answered once, and read back as they were written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lfpose_edge.cli.main import main
from lfpose_edge.coco import read_coco_boxes, read_coco_keypoints
from lfpose_edge.errors import SourceError
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.train.data.tags import (
    NO,
    OPEN,
    YES,
    contradictions,
    make_questions,
    places_left,
    read_tags,
    require_both_answers,
    simulate_answers,
    write_tags,
)

TWO = Skeleton("two", ("left_eye", "right_eye"), (), (0.1, 0.1))


HEADS = "person,image,box_x1,box_y1,box_x2,box_y2,x1,y1,x2,y2,left_eye,right_eye\n"
ROWS = "1,a.jpg,0,0,9,9,0,0,9,9,yes,\n2,b.jpg,0,0,9,9,1,1,9,9,No,YES\n"


def table(count: int = 6) -> PersonTable:
    """Persons in boxes of 40 x 80 pixels, with one joint in the upper half and one in the lower."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (count, 2))
    joints = np.stack([corner + (20.0, 20.0), corner + (20.0, 60.0)], axis=1)
    return PersonTable(
        images=[Path("images") / f"part/{i}.jpg" for i in range(count)],
        image_ids=np.arange(count),
        annotation_ids=np.arange(count) + 100,
        boxes=np.concatenate([corner, corner + (40, 80)], axis=1),
        joints=joints,
        labelled=np.ones((count, 2), bool),
        known=np.ones((count, 2), bool),
        areas=np.full(count, 3200.0),
        skeleton=TWO,
    )


def test_tiles_lie_in_the_box_and_depend_on_it_alone() -> None:
    persons = table()
    tags = make_questions(persons, Path("images"), 5)
    assert (len(tags), tags.images[0], tags.given) == (30, "part/0.jpg", 0)
    np.testing.assert_allclose(tags.regions[::5], persons.boxes, atol=0.006)
    sides = (tags.regions[:, 2:] - tags.regions[:, :2]) / (40, 80)
    tiles = np.arange(30) % 5 > 0
    assert (sides[tiles] > 0.29).all() and (sides[tiles] < 0.71).all()
    assert (tags.regions[:, :2] >= tags.boxes[:, :2] - 0.01).all()
    assert (tags.regions[:, 2:] <= tags.boxes[:, 2:] + 0.01).all()

    other = replace(persons, joints=persons.joints[::-1] * 3, labelled=~persons.labelled)
    assert (make_questions(other, Path("images"), 5).regions == tags.regions).all()
    assert (make_questions(persons, Path("images"), 5, seed=1).regions != tags.regions).any()


def test_a_sheet_of_more_regions_begins_with_those_of_fewer() -> None:
    few, many = (make_questions(table(), Path("images"), n).regions for n in (3, 10))
    assert (many.reshape(6, 10, 4)[:, :3] == few.reshape(6, 3, 4)).all()


def test_answers_are_yes_where_the_joint_is_inside() -> None:
    persons = table()
    persons.labelled[1, 0] = False
    persons.known[2, 1] = False
    tags = make_questions(persons, Path("images"), 4)
    answered = simulate_answers(tags, persons)
    for row, (region, answers) in enumerate(zip(answered.regions, answered.answers, strict=True)):
        person = row // 4
        for joint in range(2):
            x, y = persons.joints[person, joint]
            inside = region[0] <= x < region[2] and region[1] <= y < region[3]
            expected = YES if inside and persons.labelled[person, joint] else NO
            assert answers[joint] == (expected if persons.known[person, joint] else OPEN)
    assert answered.given == 48 - 4
    assert (answered.answers[::4] == [[1, 1], [0, 1], [1, -1], [1, 1], [1, 1], [1, 1]]).all()
    some = simulate_answers(tags, persons.first(5))
    assert (some.answers[:20] == answered.answers[:20]).all()
    assert (some.answers[20:] == OPEN).all()  # nothing is known of the sixth
    with pytest.raises(SourceError, match="no person of the sheet"):
        simulate_answers(tags, replace(persons, annotation_ids=persons.annotation_ids + 50))
    for changes in ({"boxes": persons.boxes + 1}, {"images": persons.images[::-1]}):
        with pytest.raises(SourceError, match="person 100 of the sheet has another image or box"):
            simulate_answers(tags, replace(persons, **changes))


def test_mistakes_are_drawn_once() -> None:
    persons = table()
    persons.known[2, 1] = False
    tags = make_questions(persons, Path("images"), 40)
    right, wrong, again, other = (
        simulate_answers(tags, persons, mistakes=part, seed=seed).answers
        for part, seed in ((0.0, 0), (0.2, 0), (0.2, 0), (0.2, 1))
    )
    assert (wrong == again).all()
    assert (wrong != other).any()
    assert ((right == OPEN) == (wrong == OPEN)).all()
    assert 0.14 < (right != wrong)[right != OPEN].mean() < 0.26


def test_answers_leave_what_agrees_with_all_of_them() -> None:
    persons = table(2)
    tags = make_questions(persons, Path("images"), 3)
    corner, extent = persons.boxes[:, None, :2], np.array([40.0, 80.0])
    parts = np.array([[[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0.25, 1, 1]]] * 2, float)  # of the box
    regions = np.concatenate([corner + parts[..., :2] * extent, corner + parts[..., 2:] * extent], axis=2)
    answers = [[[1, 1], [1, 0], [1, 1]], [[1, 1], [-1, -1], [-1, 0]]]
    tags = replace(tags, regions=regions.reshape(6, 4), answers=np.array(answers, np.int8).reshape(6, 2))
    left, middle = places_left(tags)
    np.testing.assert_allclose(left, [[0.125, 0.625], [1, 0.25]])
    expected = np.array([[[0.25, 0.375], [0.55, 0.675]], [[0.5, 0.5], [0.5, 0.125]]])
    np.testing.assert_allclose((middle - corner) / extent, expected)

    impossible = replace(tags, answers=np.array([[1, 1], [0, 0], [0, 0]] * 2, np.int8))
    impossible.regions[1::3], impossible.regions[2::3] = impossible.regions[::3], impossible.regions[::3]
    left, middle = places_left(impossible)
    assert (left == 1).all()
    np.testing.assert_allclose((middle - corner) / extent, 0.5)


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ((YES, YES, YES, NO), False),  # where the two tiles overlap
        ((YES, YES, OPEN, NO), False),
        ((YES, NO, NO, OPEN), False),  # beside both
        ((NO, NO, NO, NO), False),  # it cannot be seen
        ((NO, YES, OPEN, OPEN), True),
        ((YES, YES, OPEN, YES), True),  # two tiles without a place in common
        ((OPEN, NO, YES, OPEN), False),
        ((OPEN, YES, NO, OPEN), False),
        ((YES, OPEN, OPEN, YES), False),
    ],
)
def test_answers_that_cannot_all_be_right(answers: tuple[int, ...], wrong: bool) -> None:
    """About the box, a tile, one that overlaps it by less than a pixel, and one far from it."""
    persons = table(1)
    regions = np.array([[0, 0, 40, 80], [0, 0, 20, 20], [19.5, 19.5, 39, 39], [25, 60, 40, 80]], float)
    tags = make_questions(persons, Path("images"), 4)
    told = np.stack([np.array(answers), [YES, OPEN, OPEN, OPEN]], axis=1).astype(np.int8)
    assert contradictions(replace(tags, regions=regions, answers=told)).tolist() == [[wrong, False]]


def test_right_answers_never_contradict_each_other() -> None:
    persons = table()
    tags = make_questions(persons, Path("images"), 12)
    assert not contradictions(simulate_answers(tags, persons)).any()
    assert contradictions(simulate_answers(tags, persons, mistakes=0.3)).any()


def test_an_id_may_be_of_one_person_an_image() -> None:
    persons = replace(table(3), annotation_ids=np.array([7, 7, 8]))
    persons.known[1, 0] = False
    answered = simulate_answers(make_questions(persons, Path("images"), 1), persons)
    assert answered.answers.tolist() == [[YES, YES], [OPEN, YES], [YES, YES]]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_sheet_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    persons = table()
    tags = simulate_answers(make_questions(persons, Path("images"), 3), persons)
    tags.answers[4, 1] = OPEN
    write_tags(tmp_path / f"sheet{suffix}", tags)
    again = read_tags(tmp_path / f"sheet{suffix}", TWO)
    for name in ("persons", "regions", "answers"):
        assert (getattr(again, name) == getattr(tags, name)).all()
    np.testing.assert_allclose(again.boxes, tags.boxes)
    assert again.images == tags.images


@pytest.mark.parametrize(("mark", "separator"), [("\ufeff", ","), ("", ";"), ("\ufeff", ";")])
def test_sheets_that_spreadsheets_saved_are_read(tmp_path: Path, mark: str, separator: str) -> None:
    text = (HEAD + ",left_eye\n1,a.jpg,0,0,9,9,0,0,9,9,yes\n").replace(",", separator)
    (tmp_path / "sheet.csv").write_text(mark + text, encoding="utf-8")
    assert read_tags(tmp_path / "sheet.csv", TWO).answers.tolist() == [[YES, OPEN]]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n" + HEADS.replace(",", ";") + ROWS.replace(",", ";"),
        HEADS.replace(",", "\t") + ROWS.replace(",", "\t"),
        HEADS + ",,,,,,,,,,,\n" + ROWS + ",,,,,,,,,,,\n",
        HEADS.replace("\n", ",,\n") + ROWS.replace("\n", ",,\n"),
    ],
    ids=["sep", "tabs", "rows of nothing", "nameless columns"],
)
def test_what_spreadsheets_add_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "sheet.csv").write_text(text)
    tags = read_tags(tmp_path / "sheet.csv", TWO)
    assert tags.answers.tolist() == [[YES, OPEN], [NO, YES]]
    assert tags.persons.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"annotation_ids": np.zeros(3, np.int64), "images": [Path("images/a.jpg")] * 3},
            "a.jpg have the id 0",
        ),
        (
            {"boxes": np.array([[0, 0, 40, 80], [5, 5, 5.5, 60], [0, 0, 40, 80.0]])},
            "nobody can be asked about",
        ),
        (
            {"boxes": np.array([[0, 0, 40, 80], [0, 0, 40, 80], [0, 0, 1e300, 80.0]])},
            "nobody can be asked about",
        ),
    ],
    ids=["one id", "thin", "far"],
)
def test_persons_whom_no_sheet_can_hold(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        make_questions(replace(table(3), **changes), Path("images"), 2)


@pytest.mark.parametrize("change", [{"image": None}, {"left_knee": "yes"}])
def test_rows_of_json_have_the_same_columns(tmp_path: Path, change: dict[str, str | None]) -> None:
    persons = table(1)
    write_tags(tmp_path / "sheet.json", make_questions(persons, Path("images"), 2))
    tree = json.loads((tmp_path / "sheet.json").read_text(encoding="utf-8"))
    tree["regions"][1] = {k: v for k, v in (tree["regions"][1] | change).items() if v is not None}
    (tmp_path / "sheet.json").write_text(json.dumps(tree))
    with pytest.raises(SourceError, match="region 2: .*has not the columns of the first"):
        read_tags(tmp_path / "sheet.json", TWO)


def test_one_number_in_two_pictures_is_two_persons() -> None:
    tags = make_questions(table(3), Path("images"), 2)
    tags = replace(tags, persons=np.zeros_like(tags.persons))
    assert tags.rows_by_person() == [[0, 1], [2, 3], [4, 5]]


HEAD = "person,image,box_x1,box_y1,box_x2,box_y2,x1,y1,x2,y2"
SHEETS = {
    "unknown joint": (HEAD + ",left_ey\n1,a.jpg,0,0,9,9,0,0,9,9,yes\n", "'left_ey' is no joint.*left_eye"),
    "odd answer": (
        HEAD + ",left_eye\n1,a.jpg,0,0,9,9,0,0,9,9,maybe\n",
        "region 1, left_eye: an answer is .* not .maybe",
    ),
    "no number": (HEAD + ",left_eye\n1,a.jpg,0,0,9,9,0,0,9,x,yes\n", "region 1: .*a place is a number"),
    "no area": (HEAD + ",left_eye\n1,a.jpg,0,0,9,9,5,0,5,9,yes\n", "region 1 or its box has no area"),
    "two boxes": (
        HEAD + ",left_eye\n4,a.jpg,0,0,9,9,0,0,9,9,yes\n4,a.jpg,0,0,9,8,0,0,4,4,no\n",
        "person 4 of a.jpg has several boxes",
    ),
    "nan": (HEAD + ",left_eye\n1,a.jpg,0,0,9,9,5,0,nan,9,yes\n", "region 1 or its box has no area"),
    "short row": (HEAD + ",left_eye\n1,a.jpg,0,0\n", "region 1: "),
    "no column": ("person,image,left_eye\n1,a.jpg,yes\n", "has a column 'box_x1'"),
    "empty": ("", "has no region in it"),
    "header alone": (HEAD + ",left_eye\n,,,,,,,,,,\n", "has no region in it"),
    "column twice": (HEAD + ",left_eye,left_eye\n1,a.jpg,0,0,9,9,0,0,9,9,yes,no\n", "a column appears twice"),
    "long row": (HEAD + ",left_eye\n1,a.jpg,0,0,9,9,0,0,9,9,yes,no\n", "region 1 has more cells"),
    "huge id": (HEAD + f",left_eye\n{10**20},a.jpg,0,0,9,9,0,0,9,9,yes\n", "region 1: "),
    "half id": (HEAD + ",left_eye\n1.7,a.jpg,0,0,9,9,0,0,9,9,yes\n", "region 1: "),
    "binary": ("\x00\x01", "not a tag sheet|has a column|has no region"),
}


@pytest.mark.parametrize("case", SHEETS)
def test_a_sheet_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    text, words = SHEETS[case]
    (tmp_path / "sheet.csv").write_text(text)
    with pytest.raises(SourceError, match=words):
        read_tags(tmp_path / "sheet.csv", TWO)


def test_missing_and_broken_sheets_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no tag sheet at .*none\.csv"):
        read_tags(tmp_path / "none.csv", TWO)
    (tmp_path / "sheet.json").write_text("[]")
    with pytest.raises(SourceError, match=r"sheet\.json: not a tag sheet"):
        read_tags(tmp_path / "sheet.json", TWO)


@pytest.mark.parametrize(("answer", "words"), [(YES, "always yes"), (NO, "never yes"), (OPEN, "never given")])
def test_a_joint_without_both_answers_cannot_be_learned(answer: int, words: str) -> None:
    persons = table()
    tags = simulate_answers(make_questions(persons, Path("images"), 6), persons)
    require_both_answers([tags], "sheet")
    before = replace(tags, answers=tags.answers.copy())
    tags.answers[:, 1] = answer
    with pytest.raises(SourceError, match=f"right_eye is {words}"):
        require_both_answers([tags], "sheet")
    require_both_answers([tags, before], "two sheets")  # the other has what this one lacks
    require_both_answers([tags], "sheet", taught=["right_eye"])  # by located persons


def test_the_commands_make_and_answer_a_sheet(command, tmp_path: Path) -> None:
    joints = ["left_ankle", "head_top"]
    people = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [5, 5, 40, 60]}
        | {"keypoints": [10, 55, 2, 25, 8, 2], "iscrowd": 0}
        for i in (3, 4)
    ]
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": people}
    tree["categories"] = [{"id": 1, "name": "person", "keypoints": joints}]
    (tmp_path / "p.json").write_text(json.dumps(tree))
    (tmp_path / "a.png").write_bytes(b"x")
    place = (str(tmp_path / "p.json"), str(tmp_path))
    code, _, err = command(main, "lfpose", "tags", "make", *place, "--regions", "3", "--out", "q.csv")
    assert code == 0, err
    assert "2 persons, 42 questions each" in err
    code, _, err = command(main, "lfpose", "tags", "simulate", "q.csv", *place, "--out", "a.csv")
    assert code == 0, err
    assert "12 answers about 2 persons" in err
    assert "They leave a joint" in err
    out = ("--mistakes", "0.5", "--out", "b.csv")
    code, _, err = command(main, "lfpose", "tags", "simulate", "q.csv", *place, *out)
    assert (code, "12 answers about 2 persons" in err) == (0, True)
    assert Path("a.csv").read_text(encoding="utf-8") != Path("b.csv").read_text(encoding="utf-8")
    code, _, err = command(main, "lfpose", "tags", "make", *place, "--out", "q.csv", "--skeleton", "lsp")
    assert (code, "did you mean 'lsp14'" in err) == (1, True)


def test_boxes_are_read_without_joints(tmp_path: Path) -> None:
    person = {"id": 3, "image_id": 1, "bbox": [5, 5, 40, 60], "keypoints": "not even a list"}
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [person]}
    (tmp_path / "p.json").write_text(json.dumps(tree))
    persons = read_coco_boxes(tmp_path / "p.json", tmp_path, TWO)
    assert persons.boxes.tolist() == [[5, 5, 45, 65]]
    assert persons.annotation_ids.tolist() == [3]
    assert not persons.labelled.any()
    with pytest.raises(SourceError):
        read_coco_keypoints(tmp_path / "p.json", tmp_path, TWO)
