"""PCK, presence, the lines that look at no picture, and OKS AP on cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfpose_edge import PoseEstimator
from lfpose_edge.errors import SourceError
from lfpose_edge.metrics.accuracy import measure, predict_persons
from lfpose_edge.metrics.pck import box_thresholds, joint_distances, pck, torso_thresholds
from lfpose_edge.metrics.presence import roc_auc
from lfpose_edge.metrics.reference_lines import centre_of_box, mean_pose
from lfpose_edge.persons import PersonTable, unlabelled_persons
from lfpose_edge.results import person_scores
from lfpose_edge.skeleton import LSP14, Skeleton

HANDS = Skeleton("hands", ("nose", "left_wrist", "right_wrist"), (), (0.1,) * 3)


def _persons(
    joints: np.ndarray, labelled: np.ndarray | None = None, skeleton: Skeleton = HANDS
) -> PersonTable:
    n = len(joints)
    boxes = np.tile([0.0, 0.0, 50.0, 100.0], (n, 1)) + 200 * np.arange(n)[:, None]
    labelled = np.ones(joints.shape[:2], bool) if labelled is None else labelled
    return PersonTable(
        images=[Path(f"{i}.jpg") for i in range(n)],
        image_ids=np.arange(n),
        annotation_ids=np.arange(n),
        boxes=boxes,
        joints=joints + boxes[:, None, :2],
        labelled=labelled,
        known=np.ones_like(labelled),
        areas=np.full(n, 5000.0),
        skeleton=skeleton,
    )


def test_pck_counts_labelled_joints_up_to_and_with_the_threshold() -> None:
    truth = np.zeros((2, 3, 2))
    guess = np.array([[[3, 4], [3, 4.001], [np.nan, 0]], [[0, 0], [0, 0], [0, 0]]])
    labelled = np.array([[True, True, True], [True, False, False]])
    result = pck(guess, truth, labelled, [5.0, 5.0], HANDS)
    assert result.mean == pytest.approx(2 / 4)
    assert result.per_joint == {"nose": 1.0, "left_wrist": 0.0, "right_wrist": 0.0}
    assert result.counted == 4
    one = pck(guess, truth, labelled, [5.0, np.nan], HANDS, ["nose"])
    assert (one.mean, one.counted, list(one.per_joint)) == (1.0, 1, ["nose"])
    assert np.isnan(pck(guess, truth, labelled & False, [5.0, 5.0], HANDS).mean)


@pytest.mark.parametrize(
    ("mirror_labelled", "expected"), [(True, [0.0, 1.0, 1.0]), (False, [0.0, np.sqrt(101), 1.0])]
)
def test_either_side_takes_the_nearer_of_a_labelled_pair(
    mirror_labelled: bool, expected: list[float]
) -> None:
    truth = np.array([[[5.0, 5.0], [0.0, 0.0], [10.0, 0.0]]])
    guess = np.array([[[5.0, 5.0], [10.0, 1.0], [10.0, 1.0]]])
    labelled = np.array([[True, True, mirror_labelled]])
    found = joint_distances(guess, truth, labelled, HANDS, either_side=True)
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(joint_distances(guess, truth, labelled, HANDS)[0], [0, np.sqrt(101), 1])


def test_thresholds_are_parts_of_the_box_and_of_the_torso() -> None:
    np.testing.assert_allclose(box_thresholds([[10, 20, 60, 120], [0, 0, 30, 10]]), [10, 3])
    joints = np.zeros((2, 14, 2))
    joints[:, LSP14.index("left_shoulder")] = [30.0, 40.0]
    labelled = np.ones((2, 14), bool)
    labelled[1, LSP14.index("right_hip")] = False
    np.testing.assert_allclose(torso_thresholds(joints, labelled, LSP14), [10, np.nan])


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.1, 0.4], [1, 1], np.nan),
        ([], [], np.nan),
        ([0.1, np.nan], [0, 1], np.nan),
        ([np.nan, 0.4], [0, 1], np.nan),
    ],
)
def test_auc_is_the_chance_to_rank_a_pair_rightly(
    scores: list[float], positive: list[int], expected: float
) -> None:
    np.testing.assert_equal(roc_auc(scores, positive), expected)


def test_auc_agrees_with_counting_all_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 300), rng.random(300) < 0.3
    difference = scores[positive][:, None] - scores[~positive]
    assert roc_auc(scores, positive) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_the_lines_look_at_boxes_and_averages_only() -> None:
    joints = np.array([[[10, 10], [20, 50], [0, 0]], [[30, 30], [40, 90], [0, 0]]], float)
    labelled = np.array([[True, True, False], [True, False, False]])
    persons = _persons(joints, labelled)
    corner = persons.boxes[:, None, :2]
    np.testing.assert_allclose(centre_of_box(persons) - corner, np.tile([25.0, 50.0], (2, 3, 1)))
    np.testing.assert_allclose(
        mean_pose(persons) - corner, np.tile([[20, 20], [20, 50], [25, 50]], (2, 1, 1))
    )


def test_presence_is_judged_where_it_is_known() -> None:
    joints = np.full((4, 3, 2), 20.0)
    labelled = np.array([[True] * 3, [True] * 3, [False] * 3, [False] * 3])
    persons = _persons(np.tile(joints, (1, 5, 1))[:, :14], np.repeat(labelled, 5, axis=1)[:, :14], LSP14)
    presence = np.repeat(np.array([[0.9], [0.2], [0.5], [0.1]], np.float32), 14, axis=1)
    assert measure(persons.joints, persons, presence=presence).presence_auc["neck"] == pytest.approx(0.75)
    persons.known[2] = False
    assert measure(persons.joints, persons, presence=presence).presence_auc["neck"] == 1


def test_accuracy_of_a_perfect_prediction_and_of_swapped_sides() -> None:
    rng = np.random.default_rng(1)
    persons = _persons(rng.uniform(0, 100, (6, 14, 2)), skeleton=LSP14)
    ones = np.ones((6, 14), np.float32)
    perfect = measure(persons.joints.astype(np.float32), persons, ones, ones)
    assert perfect.pck_box.mean == perfect.pck_torso.mean == perfect.pck_either_side.mean == 1
    assert perfect.oks is not None
    assert perfect.oks.ap == pytest.approx(1)
    assert all(np.isnan(v) for v in perfect.presence_auc.values())  # nobody lacks a joint
    swapped = measure(persons.joints[:, LSP14.flip_permutation], persons)
    assert swapped.pck_box.mean < 0.3
    assert swapped.pck_either_side.mean == 1
    assert swapped.oks is None
    assert swapped.presence_auc is None


def test_pck_by_box_and_by_torso_are_two_measures() -> None:
    joints = np.tile(np.array([50.0, 50.0]), (1, 14, 1))
    joints[0, LSP14.index("left_shoulder")] += [6.0, 8.0]  # a torso of 10 pixels in a box of 100
    persons = _persons(joints, skeleton=LSP14)
    found = measure(persons.joints + [0.0, 3.0], persons)
    assert (found.pck_box_all.mean, found.pck_torso.mean) == (1.0, 0.0)
    persons.joints[0, LSP14.index("left_shoulder")] += [6.0, 8.0]  # of 20
    assert measure(persons.joints + [0.0, 3.0], persons).pck_torso.mean == 1.0


def test_a_skeleton_without_a_torso_is_measured_by_the_box_alone() -> None:
    persons = _persons(np.full((2, 3, 2), 20.0))
    found = measure(persons.joints, persons)
    assert found.pck_box_all.mean == 1
    assert np.isnan(found.pck_torso.mean)


def test_oks_is_cocos_own_of_these_persons() -> None:
    """Sizes on both sides of COCO's medium, some guesses far off, some persons half labelled."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    count = 12
    persons = _persons(rng.uniform(0, 100, (count, 14, 2)), rng.random((count, 14)) < 0.8, LSP14)
    persons = replace(
        persons, areas=np.where(np.arange(count) < 5, 2000.0, 20000.0), image_ids=7 + np.arange(count) // 2
    )
    guess = persons.joints + rng.normal(0, rng.uniform(0, 20, (count, 1, 1)), persons.joints.shape)
    scores = rng.uniform(0, 1, (count, 14)).astype(np.float32)
    found = measure(guess.astype(np.float32), persons, scores).oks
    assert found is not None

    truth, predictions = [], []
    for i in range(count):
        x1, y1, x2, y2 = persons.boxes[i]
        v = 2.0 * persons.labelled[i][:, None]
        truth.append(
            {
                "id": i + 1,
                "image_id": 7 + i // 2,
                "category_id": 1,
                "iscrowd": 0,
                "area": persons.areas[i],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "num_keypoints": int(persons.labelled[i].sum()),
                "keypoints": np.concatenate([persons.joints[i] - 0.5, v], axis=1).ravel().tolist(),
            }
        )
        predictions.append(
            {
                "image_id": 7 + i // 2,
                "category_id": 1,
                "score": float(person_scores(scores)[i]),
                "keypoints": np.concatenate([guess[i] - 0.5, scores[i][:, None]], axis=1).ravel().tolist(),
            }
        )
    with contextlib.redirect_stdout(io.StringIO()):
        ground = coco.COCO()
        ground.dataset = {
            "images": [{"id": 7 + i} for i in range(count // 2)],
            "categories": [{"id": 1}],
            "annotations": truth,
        }
        ground.createIndex()
        evaluator = COCOeval(ground, ground.loadRes(predictions), "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(LSP14.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ap, ap50, ap75, medium, large = evaluator.stats[:5]
    assert len({ap, ap50, ap75, medium, large}) == 5  # or an exchange would not show
    assert (found.ap, found.ap50, found.ap75) == pytest.approx((ap, ap50, ap75), abs=1e-6)
    assert (found.ap_medium, found.ap_large) == pytest.approx((medium, large), abs=1e-6)


def test_a_box_that_cannot_be_used_is_named_with_its_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), np.uint8))
    persons = unlabelled_persons([tmp_path / "a.png"], np.array([[30.0, 0, 40, 10]]), LSP14)
    estimator = PoseEstimator(backend="onnxruntime", precision="fp32", threads=1)
    with estimator, pytest.raises(SourceError, match=r"a\.png, annotation 0: box 0, .* has no area inside"):
        predict_persons(estimator, persons)
