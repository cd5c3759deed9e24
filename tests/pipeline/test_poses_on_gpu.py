"""Poses that stay in the GPU's memory."""

from __future__ import annotations

import gpu_doubles
import numpy as np
import pytest
from gpu_doubles import TorchLike
from pipeline_cases import BOXES, Make, assert_same, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.errors import BackendUnavailable


def test_poses_may_stay_on_the_gpu(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Nothing waits for them: their frames' memory is used again by the ones that follow."""
    pose = on_gpu(max_batch=2)
    kept = [pose(make_picture(seed), BOXES[: 1 + seed % 3], to="device") for seed in range(7)]
    kept.append(pose(TorchLike(make_picture(7)), BOXES, to="device"))
    found = pose(make_picture(8), BOXES)  # and one that comes down, between
    assert [len(poses) for poses in kept] == [1, 2, 3, 1, 2, 3, 1, 3]
    for seed, poses in enumerate(kept):
        expected = on_cpu(make_picture(seed), BOXES[: len(poses)])
        assert isinstance(poses.keypoints, gpu_doubles.DeviceArray)
        down = poses.to_host()
        assert_same(down, expected)
        np.testing.assert_array_equal(down.boxes, expected.boxes)
        assert (down.image_size, down.skeleton.name) == (expected.image_size, expected.skeleton.name)
    assert_same(found, on_cpu(make_picture(8), BOXES))
    many = [[x, 10, x + 40, 90] for x in range(0, 90, 10)]
    crowd = pose(make_picture(9), many, to="device")
    assert_same(crowd.to_host(), on_cpu(make_picture(9), many))


def test_the_next_frame_does_not_wait_for_joints_that_stay(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    kept = [pose(make_picture(0), BOXES, to="device")]
    leaving = pose._pipeline._leaving
    under_way = len(leaving.work)
    kept.append(pose(make_picture(1), BOXES, to="device"))
    assert len(leaving.work) > under_way > 0
    for seed, poses in enumerate(kept):
        assert_same(poses.to_host(), on_cpu(make_picture(seed), BOXES))


def test_poses_that_stay_are_taken_over_beside_a_capture(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Another thread's frame may be capturing: reading poses must not use that frame's stream."""
    pose = on_gpu()
    poses = pose(make_picture(1), BOXES, to="device")
    compute = pose._pipeline._compute
    compute.begin_capture()
    assert_same(poses.to_host(), on_cpu(make_picture(1), BOXES))
    compute.end_capture()


def test_where_poses_stay_nobody_is_an_empty_array(on_gpu: Make) -> None:
    poses = on_gpu(detector=lambda image: np.zeros((0, 4)))(make_picture(0), to="device")
    assert (len(poses), poses.to_host().keypoints.shape[0]) == (0, 0)


def test_nobody_stays_on_the_gpu_and_the_frame_is_no_longer_read(on_gpu: Make) -> None:
    pose = on_gpu(detector=lambda image: np.zeros((0, 4)))
    assert len(pose(make_picture(1), to="device")) == 0
    assert pose._pipeline._uploads.work == []


def test_where_there_is_no_gpu_poses_cannot_stay(on_cpu: PoseEstimator) -> None:
    with pytest.raises(BackendUnavailable, match=r"onnxruntime .* runs on no GPU where poses could stay"):
        on_cpu(make_picture(0), BOXES, to="device")
    with pytest.raises(ValueError, match="to must be one of host, device, got 'gpu'"):
        on_cpu(make_picture(0), BOXES, to="gpu")
