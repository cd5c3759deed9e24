"""The judge of a proof: what it counts, of labelled persons and of frames without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lfpose_edge.export.crops import CropSet
from lfpose_edge.export.proof import Floats, Judge, Predictions

from lfpose_edge.bundle import Decode
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import LSP14

PERSONS, JOINTS = 6, len(LSP14)
PLACES = np.full((PERSONS, JOINTS, 2), 50.0, np.float32)


def _judge(*, labelled: bool) -> Judge:
    """A judge of six persons in boxes of 100 pixels; one joint of the first person is unknown."""
    located = np.full((PERSONS, JOINTS), labelled)
    located[0, 0] = False
    numbers = np.arange(PERSONS)
    persons = PersonTable(
        images=[Path(f"{i}.png") for i in numbers],
        image_ids=numbers,
        annotation_ids=numbers,
        boxes=np.tile([0.0, 0.0, 100.0, 100.0], (PERSONS, 1)),
        joints=PLACES.astype(np.float64),
        labelled=located,
        known=located.copy(),
        areas=np.ones(PERSONS),
        skeleton=LSP14,
    )
    crops = CropSet(
        np.zeros((PERSONS, 3, 4, 4), np.float32),
        np.tile(np.eye(2, 3), (PERSONS, 1, 1)),
        persons,
        tuple(bytes([i]) for i in numbers),
    )
    return Judge(crops, LSP14, Decode(cam_stride=4, upsample=4, method="softargmax"))


def _says(joints: Floats, presence: Floats) -> Predictions:
    return Predictions(joints, np.ones_like(presence), presence)


def test_labels_are_the_truth_whatever_the_original_says() -> None:
    judge = _judge(labelled=True)
    there = np.ones((PERSONS, JOINTS), np.float32)
    original = _says(PLACES, there)
    wrong, absent = PLACES.copy(), there.copy()
    wrong[:3] += 40  # half of the persons
    absent[:2] = 0
    judge.trust(_says(PLACES + 100, there))
    assert judge.presence_points(original) == 100  # what nobody knows does not count
    drop = judge.drop(_says(wrong, absent), original)
    assert drop.pck == pytest.approx(50, abs=1)
    assert drop.low < drop.pck < drop.high
    assert drop.presence == pytest.approx(100 * 27 / 83)
    assert judge.drop(original, _says(wrong, absent)).presence < 0  # a gain


def test_without_labels_the_original_is_the_truth_where_it_is_sure() -> None:
    judge = _judge(labelled=False)
    there = np.full((PERSONS, JOINTS), 0.9, np.float32)
    there[:, 0] = 0.1
    original = _says(PLACES, there)
    judge.trust(original)
    assert judge.drop(original, original).worst == 0
    moved = PLACES.copy()
    moved[:, 0] += 40  # a joint that the original does not see
    assert judge.drop(_says(moved, there), original).pck == 0
    weak, fewer = original.scores.copy(), there.copy()
    weak[:, 2], fewer[:3, 2] = 0.05, 0.2  # one that it places anywhere
    original = Predictions(PLACES, weak, there)
    judge.trust(original)
    assert judge.presence_points(original) == 100
    moved = PLACES.copy()
    moved[:, 2] += 40
    found = Predictions(moved, weak, there)
    assert judge.drop(found, original).worst == 0
    assert np.isnan(judge.moved(found, original)[:, :3:2]).all()
    assert judge.drop(_says(PLACES, fewer), original).presence == pytest.approx(100 * 3 / (6 * JOINTS))
    just_below, just_above = there.copy(), there.copy()
    just_below[:, 1], just_above[:, 1] = judge._threshold - 0.01, judge._threshold + 0.01
    judge.trust(_says(PLACES, just_above))
    doubtful = judge.drop(_says(PLACES, just_below), _says(PLACES, just_above))
    assert doubtful.presence == 0  # nothing that anybody would see


@pytest.mark.parametrize(("before", "after", "counts"), [(0.9, 0.1, 1), (0.55, 0.44, 1), (0.55, 0.46, 0)])
def test_without_labels_a_joint_that_changes_sides_by_more_than_a_little_counts(
    before: float, after: float, counts: int
) -> None:
    judge = _judge(labelled=False)
    there = np.full((PERSONS, JOINTS), before, np.float32)
    original = _says(PLACES, there)
    judge.trust(original)
    changed = there.copy()
    changed[2] = after
    drop = judge.drop(_says(PLACES, changed), original)
    assert drop.presence == pytest.approx(counts * 100 / PERSONS)
    assert drop.pck == 0
