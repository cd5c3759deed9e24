"""Several frames in flight: streams, threads, and more frames than memory is kept for."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from engine_doubles import FakeTensorRt
from pipeline_cases import BOXES, Make, assert_same, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.errors import SourceError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.pipeline.device import KEPT


def test_a_stream_keeps_the_order_and_a_frame_ahead(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pictures = [make_picture(seed) for seed in range(7)]
    read = []

    def source() -> Any:
        for number, picture in enumerate(pictures):
            read.append(number)
            yield picture

    pose, seen = on_gpu(), []
    for number, result in enumerate(pose.stream(source())):
        assert_same(result, on_cpu(pictures[number]))
        seen.append(len(read))
    assert seen == [2, 3, 4, 5, 6, 7, 7]


@pytest.mark.parametrize("kind", [SourceError, TypeError, RuntimeError])
def test_a_source_that_breaks_off_gives_every_frame_before_it_says_so(
    kind: type[Exception], on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    def source() -> Any:
        yield from map(make_picture, range(3))
        message = "no more frames"
        raise kind(message)

    results = on_gpu().stream(source())
    for seed in range(3):
        assert_same(next(results), on_cpu(make_picture(seed)))
    with pytest.raises(kind, match="no more frames"):
        next(results)


def test_a_frame_that_fails_on_its_way_is_not_the_next_one(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose, begin, count = on_gpu(), PoseEstimator._begin, itertools.count()

    def fails(*arguments: Any, **options: Any) -> Any:
        finish = begin(*arguments, **options)
        if next(count) != 1:
            return finish

        def fail() -> None:
            finish()
            message = "the second frame"
            raise RuntimeError(message)

        return fail

    monkeypatch.setattr(PoseEstimator, "_begin", fails)
    results = pose.stream(map(make_picture, range(4)))
    assert_same(next(results), on_cpu(make_picture(0)))
    with pytest.raises(RuntimeError, match="the second frame"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_the_latest_frame_does_not_wait_for_the_next_one(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_seen, heard = threading.Event(), []

    class Camera:
        count = 0

        def __init__(self, number: int) -> None: ...

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, fact: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, Any]:
            self.count += 1
            if self.count == 2:
                heard.append(is_seen.wait(20))
            return self.count < 3, make_picture(self.count)

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    results = on_gpu().stream(0, latest=True)
    assert_same(next(results), on_cpu(make_picture(1)))
    is_seen.set()
    assert_same(next(results), on_cpu(make_picture(2)))
    with pytest.raises(SourceError, match="gives no more frames"):
        next(results)
    assert heard == [True]


def test_a_stream_that_is_left_gives_its_memory_back(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    for _ in range(3):
        stream = pose.stream([make_picture(seed) for seed in range(5)])
        next(stream)
        stream.close()
    assert_same(pose(make_picture(1), BOXES), on_cpu(make_picture(1), BOXES))


def test_streams_side_by_side_wait_for_nobody(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    streams = [pose.stream([make_picture(10 * s + n) for n in range(4)]) for s in range(3)]
    for number, results in enumerate(zip(*streams, strict=True)):
        for s, result in enumerate(results):
            assert_same(result, on_cpu(make_picture(10 * s + number)))
    assert number == 3


def test_several_threads_share_an_estimator(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    expected = [on_cpu(make_picture(seed), BOXES) for seed in range(4)]
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for _ in range(5):
                assert_same(pose(make_picture(seed), BOXES), expected[seed])
        except BaseException as error:  # noqa: B036  (shown by the main thread)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_more_frames_on_their_way_than_memory_is_kept_for(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    pipeline, expected = (p._pipeline for p in (on_gpu(), on_cpu))
    affines = crop_affines(np.array(BOXES, np.float64), (64, 48), padding=1.25)
    pictures = [make_picture(seed) for seed in range(KEPT + 3)]
    made = 0
    for count in (KEPT + 3, KEPT, KEPT):
        waits = [pipeline.submit(picture, affines, stay=True) for picture in pictures[:count]]
        kept = [wait() for wait in waits]
        for picture, located in zip(pictures, kept, strict=False):
            found = expected.submit(picture, affines)()
            np.testing.assert_allclose(located.keypoints.numpy(), found.keypoints, atol=2e-3)
        made = tensorrt.contexts if count > KEPT else made
    assert tensorrt.contexts == made  # those that were kept did


def test_results_that_are_collected_at_any_moment_stop_nothing(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may end a stream that was left, in the middle of a frame of the same thread."""
    pose = on_gpu()
    left = pose.stream([make_picture(seed) for seed in range(5)])
    next(left)
    put = type(pose._pipeline)._frame_on_gpu
    monkeypatch.setattr(type(pose._pipeline), "_frame_on_gpu", lambda *all_: (left.close(), put(*all_))[1])
    worker = threading.Thread(
        target=lambda: assert_same(pose(make_picture(2)), on_cpu(make_picture(2))), daemon=True
    )
    worker.start()
    worker.join(30)
    assert not worker.is_alive()
