"""Frames in turn, some of them begun before the last one's poses are there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lfpose_edge.results import PoseResult
from lfpose_edge.skeleton import LSP14
from lfpose_edge.sources import Frame
from lfpose_edge.streaming import Finish, in_turn, without_frames

IMAGE = np.zeros((4, 6, 3), np.uint8)


class Work:
    """Begins frames, and notes which were finished; those of ``failing`` fail when waited for."""

    def __init__(self, failing: set[int]) -> None:
        self.begun: list[int] = []
        self.finished: list[int] = []
        self.failing = failing

    def __call__(self, frame: Frame) -> Finish:
        self.begun.append(frame.index)

        def finish() -> PoseResult:
            self.finished.append(frame.index)
            if frame.index in self.failing:
                message = f"frame {frame.index}"
                raise RuntimeError(message)
            k = len(LSP14)
            return PoseResult(
                np.full((1, k, 2), frame.index, np.float32),
                *np.ones((2, 1, k), np.float32),
                np.zeros((1, 4), np.float32),
                np.ones(1, np.float32),
                LSP14,
                (4, 6),
            )

        return finish


def _frames(count: int) -> Iterator[Frame]:
    return (Frame(IMAGE, f"frame {i}", i) for i in range(count))


@pytest.mark.parametrize("ahead", [0, 2])
def test_results_come_in_order_and_as_few_frames_ahead_as_asked(ahead: int) -> None:
    work = Work(set())
    for i, (frame, result) in enumerate(in_turn(_frames(5), work, ahead, None)):
        assert frame.index == i
        assert result.keypoints[0, 0, 0] == i
        assert work.begun == list(range(min(5, i + ahead + 1)))
    assert work.finished == list(range(5))


def test_whoever_leaves_early_leaves_no_frame_unfinished() -> None:
    """Frames in flight hold GPU memory until they are waited for; their errors are dropped."""
    work = Work({1, 2})
    results = without_frames(in_turn(_frames(9), work, 3, None))
    assert next(results).keypoints[0, 0, 0] == 0
    results.close()
    assert (work.begun, work.finished) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_a_frame_that_fails_ends_the_stream_and_those_behind_it_are_finished() -> None:
    work = Work({1, 3})
    results = in_turn(_frames(9), work, 2, None)
    next(results)
    with pytest.raises(RuntimeError, match="frame 1"):
        next(results)
    assert work.finished == work.begun == [0, 1, 2, 3]
