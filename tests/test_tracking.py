"""Identities from frame to frame, through crossings, gaps and changes of order; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge.results import PoseResult
from lfpose_edge.skeleton import COCO17, LSP14, Skeleton
from lfpose_edge.tracking import PoseTracker

FPS = 30.0
# A person upright, 40 wide and 120 tall, around (0, 0); LSP's order.
STANDING = np.array(
    [
        [-10, 58], [-9, 32], [-8, 5], [8, 5], [9, 32], [10, 58], [-18, 8],
        [-19, -14], [-14, -34], [14, -34], [19, -14], [18, 8], [0, -40], [0, -58],
    ],
    np.float32,
)  # fmt: skip


def frame(
    *places: tuple[float, float],
    poses: list[NDArray[np.float32]] | None = None,
    hidden: Any = (),
    skeleton: Skeleton = LSP14,
) -> PoseResult:
    """Persons around these places, each standing or in the pose that is given; joints that are hidden."""
    n, k = len(places), len(skeleton)
    middles = np.array(places, np.float32).reshape(n, 1, 2)
    shapes = np.stack(poses) if poses else np.resize(STANDING, (n, k, 2))
    scores = np.full((n, k), 0.9, np.float32)
    scores[:, list(hidden)] = 0.01
    boxes = np.concatenate([middles[:, 0] - (20, 60), middles[:, 0] + (20, 60)], axis=1).astype(np.float32)
    ones = np.ones((n, k), np.float32)
    return PoseResult(middles + shapes, scores, ones, boxes, ones[:, 0], skeleton, (400, 600))


def ids(result: PoseResult) -> list[int]:
    assert result.track_ids is not None
    return result.track_ids.tolist()


def test_numbers_begin_at_1_and_stay_whatever_the_order() -> None:
    tracker = PoseTracker()
    assert ids(tracker(frame((100, 100), (300, 100)))) == [1, 2]
    assert ids(tracker(frame((303, 100), (102, 100)))) == [2, 1]
    assert ids(tracker(frame((500, 100), (104, 100), (306, 100)))) == [3, 1, 2]
    assert ids(tracker(frame())) == []
    assert ids(tracker(frame((306, 100), (500, 100), (106, 100)))) == [2, 3, 1]


def test_who_walks_past_each_other_keeps_their_number() -> None:
    """At 3 pixels a frame from both sides; in the middle both boxes are in one place."""
    tracker = PoseTracker()
    for step in range(60):
        right, left = 100 + 3 * step, 277 - 3 * step
        found = ids(tracker(frame((right, 100), (left, 104)), step / FPS))
        assert found == [1, 2], step


def test_poses_tell_two_apart_whose_boxes_are_the_same() -> None:
    upside_down = -STANDING
    tracker = PoseTracker()
    first = ids(tracker(frame((100, 100), (100, 100), poses=[STANDING, upside_down])))
    assert first == [1, 2]
    assert ids(tracker(frame((100, 100), (100, 100), poses=[upside_down, STANDING]))) == [2, 1]


def test_boxes_tell_who_it_is_where_no_joint_is_seen() -> None:
    tracker = PoseTracker()
    assert ids(tracker(frame((100, 100), (300, 100), hidden=range(14)))) == [1, 2]
    assert ids(tracker(frame((302, 100), (101, 100), hidden=range(14)))) == [2, 1]
    assert ids(tracker(frame((302, 100), (101, 100), hidden=range(12)))) == [2, 1]


@pytest.mark.parametrize(("gap_s", "number"), [(0.5, 1), (1.0, 1), (1.2, 2)])
def test_who_is_gone_is_waited_for(gap_s: float, number: int) -> None:
    tracker = PoseTracker(patience_s=1.0)
    tracker(frame((100, 100)), 0.0)
    for time_s in np.arange(0.1, gap_s, 0.1):
        tracker(frame(), float(time_s))
    assert ids(tracker(frame((100, 100)), gap_s)) == [number]


def test_who_is_not_seen_is_looked_for_where_they_were_going() -> None:
    tracker = PoseTracker()
    for step in range(10):
        tracker(frame((100 + 4 * step, 100)), step / FPS)
    assert ids(tracker(frame((100 + 4 * 25, 100)), 25 / FPS)) == [1]


def test_who_appears_elsewhere_is_somebody_else() -> None:
    tracker = PoseTracker()
    tracker(frame((100, 100)))
    assert ids(tracker(frame((180, 100)))) == [2]
    assert ids(PoseTracker()(frame((180, 100)))) == [1]


def test_joints_are_smoothed_those_of_each_person_by_themselves() -> None:
    rng = np.random.default_rng(0)
    tracker, shaken, calm = PoseTracker(), [], []
    for step in range(120):
        places = [(100.0, 100.0), (300.0, 100.0)]
        given = frame(
            *places, poses=[STANDING + rng.normal(0, 1, (14, 2)).astype(np.float32) for _ in places]
        )
        before = given.keypoints.copy()
        order = [1, 0] if step % 2 else [0, 1]
        result = tracker(given[order], step / FPS)
        assert (given.keypoints == before).all()
        assert result.keypoints.dtype == np.float32
        shaken.append(given.keypoints)
        calm.append(result.keypoints[np.argsort(ids(result))])
    ratio = np.std(calm[30:], axis=0).mean() / np.std(shaken[30:], axis=0).mean()
    assert ratio < 0.5
    np.testing.assert_allclose(np.mean(calm[30:], axis=0), np.mean(shaken, axis=0), atol=0.5)


def test_hidden_joints_stay_as_they_were_found() -> None:
    tracker = PoseTracker()
    tracker(frame((100, 100), hidden=[3]))
    moved = frame((110, 100), hidden=[3])
    result = tracker(moved)
    assert (result.keypoints[0, 3] == moved.keypoints[0, 3]).all()
    others = [k for k in range(14) if k != 3]
    assert (result.keypoints[0, others, 0] < moved.keypoints[0, others, 0]).all()


def test_without_smoothing_only_numbers_are_added() -> None:
    tracker, given = PoseTracker(smooth=False), frame((100, 100))
    tracker(frame((95, 98)))
    result = tracker(given)
    np.testing.assert_array_equal(result.keypoints, given.keypoints)
    assert ids(result) == [1]


def test_frames_without_a_time_come_at_the_rate() -> None:
    """The steps of the filter are then the same ones."""
    timed, untimed = PoseTracker(), PoseTracker(fps=10)
    for step in range(4):
        result = frame((100 + 5 * step, 100))
        ours, theirs = timed(result, step / 10), untimed(result)
        np.testing.assert_allclose(ours.keypoints, theirs.keypoints, rtol=1e-6)


@pytest.mark.parametrize(
    ("time_s", "problem"),
    [
        *((t, "must not go back: .* after 1; another video") for t in (0.9, -1.0)),
        *((float(t), f"must be finite, got {t}") for t in ("nan", "inf", "-inf")),
    ],
)
def test_time_goes_on(time_s: float, problem: str) -> None:
    tracker = PoseTracker()
    if not np.isfinite(time_s):  # of the first frame too
        with pytest.raises(ValueError, match=f"time_s {problem}"):
            tracker(frame((100, 100)), time_s)
    tracker(frame((100, 100)), 1.0)
    with pytest.raises(ValueError, match=f"time_s {problem}"):
        tracker(frame((100, 100)), time_s)
    assert ids(tracker(frame((100, 100)), 1.0)) == [1]


def test_a_joint_that_is_no_number_is_nobodys() -> None:
    broken = frame((100, 100))
    broken.keypoints[0, 4] = np.nan
    tracker = PoseTracker()
    tracker(broken)
    assert ids(tracker(frame((101, 100)))) == [1]


def test_another_skeleton_is_another_trackers() -> None:
    tracker = PoseTracker()
    tracker(frame((100, 100)))
    with pytest.raises(ValueError, match="the tracker follows lsp14, and got joints of coco17"):
        tracker(frame((100, 100), skeleton=COCO17))


def test_a_result_is_asked_for() -> None:
    with pytest.raises(TypeError, match="a tracker takes a PoseResult, got ndarray"):
        PoseTracker()(np.zeros((480, 640, 3), np.uint8))  # type: ignore[arg-type]

    class OnDevice:
        def to_host(self) -> None: ...

    with pytest.raises(TypeError, match=r"got OnDevice: bring it down by to_host\(\)"):
        PoseTracker()(OnDevice())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_cutoff_hz", 0.0),
        ("beta", -1.0),
        ("min_similarity", 1.5),
        ("min_similarity", -0.1),
        ("patience_s", float("nan")),
        ("patience_s", float("inf")),
        ("fps", 0),
        ("fps", "30"),
        ("fps", True),
    ],
)
def test_arguments_have_ranges(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number (in|of at least) .*, got {value!r}"):
        PoseTracker(**{name: value})


@pytest.mark.parametrize("late_by_s", [0.0, 0.001, 0.004, 1 / FPS])
def test_frames_that_come_late_and_close_together_are_of_the_same_people(late_by_s: float) -> None:
    """As a camera's do, whose times are when they were read; the boxes are a detector's, a little wrong."""
    rng = np.random.default_rng(0)
    tracker, found = PoseTracker(), set()
    for step in range(300):
        time_s = (step + 1) / FPS - late_by_s if step % 10 == 9 else step / FPS
        found |= set(ids(tracker(frame((100 + rng.normal(0, 2), 100 + rng.normal(0, 2))), time_s)))
    assert found == {1}


def test_who_stands_is_waited_for_whatever_is_wrong_with_their_boxes() -> None:
    rng, kept = np.random.default_rng(0), 0
    for _ in range(40):
        tracker = PoseTracker()
        for step in range(30):
            tracker(frame((100 + rng.normal(0, 2), 100 + rng.normal(0, 2))), step / FPS)
        kept += ids(tracker(frame((100 + rng.normal(0, 2), 100)), 30 / FPS + 0.5)) == [1]
    assert kept == 40


@pytest.mark.parametrize(("patience_s", "every_s"), [(1.0, 1.5), (0.0, 1 / FPS), (1.0, 60.0)])
def test_between_two_frames_everybody_is_waited_for(patience_s: float, every_s: float) -> None:
    tracker = PoseTracker(patience_s=patience_s)
    assert [ids(tracker(frame((100, 100)), step * every_s)) for step in range(4)] == [[1]] * 4


def test_a_box_that_is_no_number_renumbers_nobody_else() -> None:
    tracker, broken = PoseTracker(), frame((100, 100), (300, 100))
    broken.boxes[1] = np.nan
    broken.keypoints[1, 3] = np.inf
    assert ids(tracker(frame((100, 100), (300, 100)))) == [1, 2]
    assert ids(tracker(broken)) == [1, 3]
    assert ids(tracker(frame((100, 100), (300, 100)))) == [1, 2]
