"""The pipeline of a frame on a GPU, with doubles: the CPU's joints, in graphs, for frames of any size."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_doubles
import numpy as np
import pytest
from engine_doubles import FakeTensorRt
from gpu_doubles import Graph, TorchLike
from pipeline_cases import BOXES, Make, assert_same, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.backends.base import Closed
from lfpose_edge.cli.bench import measure
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.results import StageTimings


def test_joints_are_where_the_cpu_finds_them(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    for count in (1, 2, 3, 3, 1, 3):  # again with fewer: what was there before must not show
        for seed in range(3):
            picture = make_picture(seed)
            assert_same(pose(picture, BOXES[:count]), on_cpu(picture, BOXES[:count]))
    assert pose(picture, BOXES).backend == "tensorrt 10.3.0 cuda:0 (Tester 4000) fp32"


@pytest.mark.parametrize("size", [(100, 80), (100, 80, 1), (64, 90, 3), (33, 47, 4)], ids=str)
def test_every_kind_of_image(size: tuple[int, ...], on_gpu: Make, on_cpu: PoseEstimator) -> None:
    box = [[5, 5, 30, 30]]
    assert_same(on_gpu()(make_picture(1, size), box), on_cpu(make_picture(1, size), box))


def test_more_people_than_a_batch_holds(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    boxes = [[x, 10, x + 40, 90] for x in range(0, 110, 10)]
    assert_same(on_gpu(max_batch=4)(make_picture(3), boxes), on_cpu(make_picture(3), boxes))


def test_from_the_second_frame_on_it_is_a_graph(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    launched = []
    for seed in range(5):
        assert_same(pose(make_picture(seed), BOXES), on_cpu(make_picture(seed), BOXES))
        launched.append(Graph.launched)
    assert launched == [0, 1, 2, 3, 4]


def test_a_frame_of_the_hosts_is_cut_within_its_graph(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose, module = on_gpu(), sys.modules["lfpose_edge._cuda"]
    within = []
    cut = module.preprocess_crops

    def noted(*arguments: Any) -> None:
        within.append(pose._pipeline._compute.captured is not None)
        cut(*arguments)

    monkeypatch.setattr(module, "preprocess_crops", noted)
    for seed in range(4):
        assert_same(pose(make_picture(seed), BOXES), on_cpu(make_picture(seed), BOXES))
    assert within == [False, True]  # and then no more


@pytest.mark.parametrize("counts", [(1,), (1, 2)], ids=["one person", "one or two"])
def test_sizes_that_change_now_and_then(counts: tuple[int, ...], on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """A graph of a size before must not be launched for the one now, nor its memory be kept."""
    pose = on_gpu()
    a, b, c = (210, 220, 3), (240, 202, 3), (300, 260, 3)
    memories = []
    for seed, size in enumerate((a, a, b, b, b, c, c, a, a)):
        boxes = BOXES[: counts[seed % len(counts)]]
        assert_same(pose(make_picture(seed, size), boxes), on_cpu(make_picture(seed, size), boxes))
        (slot,) = pose._pipeline._free
        memories.append(weakref.ref(slot._memory[0]))
        gc.collect()
        assert len({id(memory()) for memory in memories if memory() is not None}) == 1


def test_frames_of_sizes_in_turns_are_cut_and_a_graph(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    sizes = [(200, 150, 3), (300, 200, 3), (120, 110, 3)]
    for seed in range(6):
        picture = make_picture(seed, sizes[seed % 3])
        assert_same(pose(picture, BOXES), on_cpu(picture, BOXES))
        if seed == 2:
            allocated = gpu_doubles.DeviceArray.allocations
    assert gpu_doubles.DeviceArray.allocations == allocated
    assert Graph.launched == 5


def test_a_network_that_fails_leaves_nothing_running_and_is_made_ready_again(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    """Nothing reads the caller's tensor any more, and the first run that succeeds is not a capture."""
    pose, tensor = on_gpu(), TorchLike(make_picture(1))
    pipeline = pose._pipeline
    tensorrt.refuses = lambda stream: True
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            pose(tensor, BOXES)
        assert pipeline._compute.work == pipeline._uploads.work == []
        assert len(pipeline._free) == 1
    contexts = tensorrt.contexts
    capturing = []

    def noted(stream: gpu_doubles.Stream) -> bool:
        capturing.append(stream.captured is not None)
        return False

    tensorrt.refuses = noted
    for seed in range(3):
        assert_same(pose(TorchLike(make_picture(seed)), BOXES), on_cpu(make_picture(seed), BOXES))
    assert capturing == [False, True]
    assert tensorrt.contexts == contexts


def test_a_network_that_cannot_be_captured_is_run_stage_by_stage(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.refuses = lambda stream: stream.captured is not None
    pose = on_gpu()
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            assert_same(pose(make_picture(seed), BOXES), on_cpu(make_picture(seed), BOXES))
    assert Graph.launched == 0
    assert len([r for r in caplog.records if r.message.startswith("no CUDA graph")]) == 1


def test_without_graphs_the_stages_go_one_by_one(
    on_gpu: Make, on_cpu: PoseEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    pose = on_gpu()
    for stream in gpu_doubles.STREAMS.values():
        stream.refuses_capture = True
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            assert_same(pose(make_picture(seed), BOXES), on_cpu(make_picture(seed), BOXES))
    assert Graph.launched == 0
    assert [r.message for r in caplog.records][1:] == [
        "no CUDA graph, stages are launched one by one: cannot capture a graph: not supported"
    ]


def test_a_stop_in_the_middle_of_a_capture_ends_it(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """A stream that went on capturing would take no other work, ever."""
    pose = on_gpu()
    pose(make_picture(0), BOXES)
    begin = pose._pipeline._compute.begin_capture

    def begin_and_stop() -> None:
        begin()
        pose._pipeline._compute.begin_capture = begin
        raise KeyboardInterrupt

    pose._pipeline._compute.begin_capture = begin_and_stop
    with pytest.raises(KeyboardInterrupt):
        for seed in range(4):
            pose(make_picture(seed), BOXES)
    for seed in range(3):
        assert_same(pose(make_picture(seed), BOXES), on_cpu(make_picture(seed), BOXES))
    assert Graph.launched > 0


def test_below_10_there_are_no_graphs(tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Only one context can run crops of a free number there."""
    tensorrt.__version__ = "8.6.1"
    pose = on_gpu()
    for seed in range(6):
        boxes = BOXES[: 1 + seed % 3]
        assert_same(pose(make_picture(seed), boxes), on_cpu(make_picture(seed), boxes))
    pose(make_picture(0), BOXES, to="device")  # which is on its way when another stream wants the context
    maps, expected = (p.activation_maps(make_picture(1), BOXES) for p in (pose, on_cpu))
    np.testing.assert_allclose(maps.cams, expected.cams, atol=1e-3)
    assert Graph.launched == 0


def test_whole_frames_are_timed_from_the_host_and_from_the_gpu(
    tensorrt: FakeTensorRt, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFPOSE_CACHE", str(tmp_path / "cache"))
    rows = measure(str(bundle), thread_counts=[1], persons=[2], seconds=0.01, others={"other": _nobody})
    ways = [(row["backend"].split()[0], row["frames_on_gpu"]) for row in rows]
    assert ways.count(("tensorrt", True)) == ways.count(("tensorrt", False)) == 2  # fp32 and fp16
    assert ("onnxruntime", True) not in ways
    assert ways.count(("other", False)) == 1
    assert all(row["frames"] >= 4 and row["total_p50_ms"] > 0 for row in rows)


def _nobody(frame: object, boxes: object) -> SimpleNamespace:
    return SimpleNamespace(timings=StageTimings())


def test_closing_frees_and_ends(on_gpu: Make) -> None:
    pose = on_gpu()
    pose(make_picture(0), BOXES)
    scratch = weakref.ref(pose._pipeline._scratch)
    assert scratch() is not None
    pose.close()
    pose.close()
    gc.collect()
    assert scratch() is None
    with pytest.raises(RuntimeError, match="closed"):
        pose(make_picture(0), BOXES)
    pose._backend.close()
    with pytest.raises(RuntimeError, match="closed"):  # of a call that was past the estimator's own check
        pose._backend.infer(np.zeros((1, 3, 8, 8), np.float32))


def test_a_program_that_was_freed_says_so() -> None:
    with pytest.raises(RuntimeError, match="this PoseEstimator is closed"):
        Closed()(0)


def test_a_call_under_way_when_it_is_closed_starts_nothing(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose = on_gpu()
    pose(make_picture(0), BOXES)  # whose context the next call would run again
    take = pose._pipeline._take_slot

    def close_then(*, stay: bool) -> Any:
        slot = take(stay=stay)
        pose.close()
        return slot

    monkeypatch.setattr(pose._pipeline, "_take_slot", close_then)
    with pytest.raises(RuntimeError, match="closed"):
        pose(make_picture(0), BOXES)
