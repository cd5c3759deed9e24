"""The shipped model on a real GPU's engines, against ONNX Runtime on the CPU. Builds engines: minutes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfpose_edge import PoseEstimator, PoseResult
from lfpose_edge.backends import ON_GPU, available
from lfpose_edge.cli.bench import frame_ring, person_boxes
from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.sources import load_image

PIXELS = {"fp32": 0.2, "fp16": 1.0, "int8": 15.0}  # the median, of joints that are surely there


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module", params=[*itertools.product(ON_GPU, PIXELS)], ids=" ".join)
def pose(request: pytest.FixtureRequest, cache: Path) -> Iterator[PoseEstimator]:
    """An estimator on every engine that is here, in every precision that it has."""
    backend, precision = request.param
    if reason := available()[backend]:
        pytest.skip(reason)
    try:
        estimator = PoseEstimator(backend=backend, precision=precision, cache_dir=cache)
    except BackendUnavailable as error:  # a program or an engine in half precision that nobody has built
        if "lfpose-export" not in str(error):
            raise
        pytest.skip(str(error))
    with estimator:
        yield estimator


def _people() -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames of one to six boxes, and one of a person whose upper body is surely there."""
    frames = [(frame, person_boxes(1 + i)) for i, frame in enumerate(frame_ring()[:6])]
    return [*frames, (load_image(PHOTO), np.array([[60, 10, 400, 500]], np.float32))]


@pytest.fixture(scope="module")
def expected() -> list[PoseResult]:
    with PoseEstimator(backend="onnxruntime", precision="fp32") as pose:
        results = [pose(*case) for case in _people()]
    assert (results[-1].scores > 0.35).sum() >= 3
    return results


def _assert_alike(found: PoseResult, expected: PoseResult, pose: PoseEstimator) -> None:
    sure = expected.scores > 0.35
    apart = np.linalg.norm(found.keypoints - expected.keypoints, axis=2)[sure]
    precision = pose.describe()["backend"].split()[-1]
    if len(apart):
        assert np.median(apart) <= PIXELS[precision]
    assert np.abs(found.presence - expected.presence).mean() < 0.05


def test_joints_are_where_the_cpu_finds_them(pose: PoseEstimator, expected: list[PoseResult]) -> None:
    for _ in range(3):  # from the second time on it is a graph
        for case, result in zip(_people(), expected, strict=True):
            _assert_alike(pose(*case), result, pose)


def test_frames_and_joints_that_are_on_the_gpu(pose: PoseEstimator, expected: list[PoseResult]) -> None:
    torch = pytest.importorskip("torch")
    for _ in range(3):
        for (frame, boxes), result in zip(_people(), expected, strict=True):
            poses: Any = pose(torch.from_numpy(frame).cuda(), boxes, to="device")
            _assert_alike(poses.to_host(), result, pose)


def test_graphs_change_nothing(pose: PoseEstimator) -> None:
    frames, boxes = frame_ring()[:4], person_boxes(3)
    with_graphs = [pose(frame, boxes) for _ in range(3) for frame in frames][-4:]
    pipeline: Any = pose._pipeline
    graphs = [batch.whole.graph for slot in pipeline._free for batch in slot._batches.values()]
    assert any(graphs) == pipeline._graphs
    captured, pipeline._graphs = pipeline._graphs, False
    pipeline._free.clear()  # or the graphs that are there would be launched all the same
    try:
        one_by_one = [pose(frame, boxes) for frame in frames]
    finally:
        pipeline._graphs = captured
        pipeline._free.clear()
    for a, b in zip(with_graphs, one_by_one, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
