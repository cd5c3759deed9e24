"""Result objects: shapes, selection, and the forms they are exported in."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, astuple, replace
from typing import Any

import numpy as np
import pytest

from lfpose_edge.results import Joint, Pose, PoseResult, StageTimings, person_scores
from lfpose_edge.skeleton import COCO17, LSP14


def mock_result(n: int = 3, **changes: Any) -> PoseResult:
    """n persons whose numbers all differ, and name their person: x of person i is 100 i + joint."""
    k = len(LSP14)
    person, joint = np.mgrid[:n, :k].astype(np.float32)
    values: dict[str, Any] = {
        "keypoints": np.stack([100 * person + joint, 50 + joint], -1),
        "scores": (person + 1) / 8 + joint / 64,
        "presence": np.broadcast_to(np.linspace(0, 1, k, dtype=np.float32), (n, k)).copy(),
        "boxes": np.array([[10.0 * i, 20, 10 * i + 30, 80] for i in range(n)], np.float32).reshape(n, 4),
        "box_scores": np.array([0.5 + i / 8 for i in range(n)], np.float32),
        "skeleton": LSP14,
        "image_size": (100, 400),
        "timings": StageTimings(infer_ms=2.0),
        "backend": "a backend",
        "presence_threshold": 0.25,
    }
    return PoseResult(**(values | changes))


def persons(result: PoseResult) -> list[int]:
    """Which persons of ``mock_result`` these are."""
    return [round(pose.keypoints[0, 0] / 100) for pose in result]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(0, 0, id="first"),
        pytest.param(2, 2, id="last"),
        pytest.param(-1, 2, id="negative"),
        pytest.param(np.int64(1), 1, id="numpy int"),
        pytest.param(np.array(1), 1, id="array without axes"),
        pytest.param(slice(1, None), [1, 2], id="slice"),
        pytest.param(slice(None, None, -1), [2, 1, 0], id="reversed slice"),
        pytest.param(slice(3, 9), [], id="slice beyond the end"),
        pytest.param(np.array([True, False, True]), [0, 2], id="mask"),
        pytest.param([True, False, True], [0, 2], id="mask as a list"),
        pytest.param(np.zeros(3, bool), [], id="mask of nobody"),
        pytest.param([2, 0], [2, 0], id="list of ints"),
        pytest.param(np.array([-1, -1]), [2, 2], id="array of ints, repeated"),
        pytest.param([], [], id="empty list"),
    ],
)
def test_selecting_persons(index: Any, expected: int | list[int]) -> None:
    result = mock_result()
    chosen = result[index]
    if isinstance(expected, int):
        assert isinstance(chosen, Pose)
        np.testing.assert_array_equal(chosen.keypoints, result.keypoints[expected])
        np.testing.assert_array_equal(chosen.scores, result.scores[expected])
        np.testing.assert_array_equal(chosen.presence, result.presence[expected])
        np.testing.assert_array_equal(chosen.box, result.boxes[expected])
        assert chosen.box_score == result.box_scores[expected]
        return
    assert isinstance(chosen, PoseResult)
    assert persons(chosen) == expected
    assert chosen.boxes[:, 0].tolist() == [10 * i for i in expected]
    for name in ("skeleton", "image_size", "timings", "backend", "presence_threshold"):
        assert getattr(chosen, name) == getattr(result, name)


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        pytest.param(3, IndexError, "no person 3: the result holds 3", id="past the end"),
        pytest.param(-4, IndexError, "no person -4", id="past the start"),
        pytest.param([0, 7], IndexError, "7", id="list past the end"),
        pytest.param(np.ones(2, bool), IndexError, "boolean", id="mask of another length"),
        pytest.param(1.5, IndexError, "integer", id="float"),
        pytest.param("left_wirst", KeyError, "did you mean 'left_wrist'", id="joint misspelt"),
    ],
)
def test_bad_selection(index: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mock_result()[index]


def test_joint_by_name() -> None:
    result = mock_result()
    k = LSP14.index("left_wrist")
    joints = result["left_wrist"]
    assert [joint.x for joint in joints] == [k, 100 + k, 200 + k]
    assert joints[1] == result[1]["left_wrist"]
    facts = (float(result.scores[1, k]), float(result.presence[1, k]), bool(result.visible[1, k]))
    assert joints[1] == Joint(100 + k, 50 + k, *facts)
    assert type(joints[0].x) is float


def test_unknown_joint_is_an_error_without_persons_too() -> None:
    with pytest.raises(KeyError, match="did you mean 'neck'"):
        PoseResult.empty(LSP14, (4, 4))["nec"]


def test_len_and_iteration() -> None:
    result = mock_result()
    assert len(result) == 3
    assert persons(result) == [0, 1, 2]
    assert all(pose.skeleton is LSP14 for pose in result)


def test_a_pose_gives_its_joints_in_order() -> None:
    pose = mock_result(1)[0]
    assert [joint.x for joint in pose] == pose.keypoints[:, 0].tolist()
    assert len(pose) == len(pose.skeleton)
    x, y, score, presence = pose["neck"]
    assert (x, y, score, presence) == astuple(pose["neck"])[:4]


def test_what_is_said_of_a_person_and_a_joint_is_what_the_result_says() -> None:
    result = mock_result(2)
    expected = result.box_scores * person_scores(result.scores)
    np.testing.assert_allclose(result.person_scores, expected)
    assert [pose.score for pose in result] == result.person_scores.tolist()
    assert result.visible.any()
    assert not result.visible.all()
    for i, (pose, person) in enumerate(zip(result, result.to_dict()["persons"], strict=True)):
        np.testing.assert_array_equal(pose.visible, result.visible[i])
        assert [joint.visible for joint in pose] == result.visible[i].tolist()
        assert [joint["visible"] for joint in person["joints"].values()] == result.visible[i].tolist()
        assert (person["score"], person["box_score"]) == (pose.score, pose.box_score)


def test_a_joint_by_its_number_is_told_to_have_a_name() -> None:
    with pytest.raises(TypeError, match="by its name, such as 'right_ankle', got 3"):
        mock_result(1)[0][3]  # type: ignore[index]


def test_results_can_be_compared_and_hashed() -> None:
    result = mock_result(2)
    assert result == result  # noqa: PLR0124
    assert result != mock_result(2)
    assert len({result, result[0], result[0]}) == 3


def test_visible_uses_the_threshold_inclusively() -> None:
    presence = np.full((1, 14), 0.25, np.float32)
    presence[0, :2] = (0.2, np.nan)
    assert mock_result(1, presence=presence).visible[0].tolist() == [False] * 2 + [True] * 12
    scores = np.full((1, 14), np.float32(0.1))
    scores[0, 2:4] = (0.09, np.nan)  # whose maps are empty
    visible = mock_result(1, presence=presence, scores=scores).visible[0]
    assert visible.tolist() == [False] * 4 + [True] * 10


def test_a_result_is_one_line_where_it_is_looked_at() -> None:
    result = mock_result(2)
    assert repr(result) == "<PoseResult: 2 persons of lsp14 in 400x100 pixels, a backend>"
    assert repr(result[:1]).startswith("<PoseResult: 1 person of lsp14")
    assert repr(result[1]) == "<Pose: 14 joints of lsp14 in the box 10, 20, 40, 80>"


def test_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        mock_result().backend = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("keypoints", (3, 14), id="keypoints without coordinates"),
        pytest.param("keypoints", (3, 17, 2), id="joints of another skeleton"),
        pytest.param("scores", (2, 14), id="scores of fewer persons"),
        pytest.param("presence", (3,), id="presence without joints"),
        pytest.param("boxes", (3, 5), id="boxes of five numbers"),
        pytest.param("box_scores", (3, 1), id="box scores as a column"),
    ],
)
def test_bad_shapes_name_the_array(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name} must have shape .* got \({shape[0]},"):
        mock_result(**{name: np.zeros(shape, np.float32)})


def test_empty() -> None:
    result = PoseResult.empty(COCO17, (480, 640), backend="b")
    assert len(result) == 0
    assert list(result) == []
    assert result.keypoints.shape == (0, 17, 2)
    assert result.scores.shape == result.presence.shape == result.visible.shape == (0, 17)
    assert result.boxes.shape == (0, 4)
    assert result.keypoints.dtype == result.boxes.dtype == np.float32
    assert (result.image_size, result.backend) == ((480, 640), "b")
    assert result["nose"] == []
    assert len(result[np.zeros(0, bool)]) == 0
    assert result.to_coco(1) == []
    assert json.loads(result.to_json())["persons"] == []
    with pytest.raises(IndexError, match="the result holds 0"):
        result[0]


def test_to_dict_survives_json() -> None:
    result = mock_result(2)
    plain = result.to_dict()
    assert json.loads(result.to_json()) == plain
    assert json.loads(result.to_json(indent=2)) == plain
    assert plain["image_size"] == [100, 400]
    assert (plain["skeleton"], plain["backend"]) == ("lsp14", "a backend")
    for i, person in enumerate(plain["persons"]):
        assert list(person["joints"]) == list(LSP14.keypoints)
        assert person["box"] == result.boxes[i].tolist()
        neck = person["joints"]["neck"]
        assert Joint(**neck) == result[i]["neck"]


def test_to_coco_gives_pixel_indices_and_widths() -> None:
    result = mock_result(2)
    entries = result.to_coco(image_id=7)
    assert [entry["image_id"] for entry in entries] == [7, 7]
    assert json.loads(json.dumps(entries)) == entries
    triples = np.reshape(entries[1]["keypoints"], (14, 3))
    np.testing.assert_allclose(triples[:, :2], result.keypoints[1] - 0.5)
    np.testing.assert_allclose(triples[:, 2], result.scores[1])
    assert entries[1]["bbox"] == [10, 20, 30, 60]
    assert entries[1]["score"] == pytest.approx(0.625 * person_scores(result.scores)[1])
    assert result.to_coco(7, category_id=3)[0]["category_id"] == 3


def test_a_person_is_ranked_by_the_joints_that_were_found() -> None:
    scores = np.array([[0.9, 0.5, 0.2, 0.0], [0.2, 0.1, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]])
    np.testing.assert_allclose(person_scores(scores), [0.7, 0.0, 0.3])
    assert person_scores(scores[:0]).shape == (0,)


@pytest.mark.parametrize("persons", [0, 1])
def test_to_coco_takes_whole_numbers_as_ids(persons: int) -> None:
    with pytest.raises(TypeError, match="interpreted as an integer"):
        mock_result(persons).to_coco("0001")  # type: ignore[arg-type]


def test_to_dataframe_has_a_row_for_each_joint() -> None:
    pytest.importorskip("pandas", reason="pandas is optional")
    result = mock_result(2)
    table = result.to_dataframe()
    assert list(table.columns) == ["person", "joint", "x", "y", "score", "presence", "visible"]
    assert len(table) == 2 * 14
    row = table[(table.person == 1) & (table.joint == "neck")].iloc[0]
    assert Joint(row.x, row.y, row.score, row.presence, row.visible) == result[1]["neck"]
    assert len(PoseResult.empty(LSP14, (4, 4)).to_dataframe()) == 0


def test_numbers_of_who_is_followed_go_wherever_their_persons_go() -> None:
    result = mock_result(track_ids=np.array([7, 3, 12]))
    assert [pose.track_id for pose in result] == [7, 3, 12]
    assert result[[2, 0]].track_ids.tolist() == [12, 7]
    assert repr(result[1]).startswith("<Pose 3: 14 joints")
    assert [person["track_id"] for person in json.loads(result.to_json())["persons"]] == [7, 3, 12]
    entries = json.loads(json.dumps(result.to_coco(1)))
    assert [entry["track_id"] for entry in entries] == [7, 3, 12]
    with pytest.raises(ValueError, match=r"track_ids must have shape \(3,\)"):
        mock_result(track_ids=np.array([7, 3]))


def test_who_is_not_followed_has_no_number() -> None:
    result = mock_result()
    assert result.track_ids is result[:2].track_ids is result[0].track_id is None
    assert "track_id" not in result.to_json()
    assert "track_id" not in result.to_coco(1)[0]


def test_to_dataframe_has_the_numbers_of_who_is_followed() -> None:
    pytest.importorskip("pandas", reason="pandas is optional")
    table = mock_result(2, track_ids=np.array([7, 3])).to_dataframe()
    assert list(table.columns)[-1] == "track_id"
    assert table.groupby("person").track_id.unique().map(list).tolist() == [[7], [3]]


def test_draw_is_a_shortcut() -> None:
    from lfpose_edge.draw import draw_poses

    result = mock_result()
    image = np.full((100, 400, 3), 90, np.uint8)
    np.testing.assert_array_equal(result.draw(image, thickness=3), draw_poses(image, result, thickness=3))


def test_timings_total() -> None:
    assert StageTimings().total_ms == 0
    timings = StageTimings(read_ms=1, detect_ms=2, preprocess_ms=4, infer_ms=8, decode_ms=16)
    assert timings.total_ms == 31
    assert replace(timings, read_ms=0).total_ms == 30
