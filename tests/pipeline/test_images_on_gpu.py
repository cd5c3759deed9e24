"""Images that are in the GPU's memory already, and those of a Jetson's camera."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from gpu_doubles import Graph, TorchLike
from pipeline_cases import BOXES, Make, assert_same, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.errors import SourceError


def test_a_tensor_on_the_gpu_is_read_where_it_lies(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    picture = make_picture(5)
    pose = on_gpu()
    for _ in range(3):
        assert_same(pose(TorchLike(picture), BOXES), on_cpu(picture, BOXES))
    assert_same(pose(TorchLike(picture)), on_cpu(picture))
    with pytest.raises(TypeError, match=r"in a GPU's memory, and onnxruntime .* reads the host's"):
        on_cpu(TorchLike(picture), BOXES)
    with pytest.raises(TypeError, match="a detector reads the host's: give boxes"):
        on_gpu(detector=lambda image: np.array(BOXES))(TorchLike(picture))
    with pytest.raises(TypeError, match="uint8"):
        pose(TorchLike(picture.astype(np.float32)), BOXES)
    part = TorchLike(picture[20:180, 30:200])  # rows of a larger image
    assert not part.memory.flags.c_contiguous
    for _ in range(3):
        assert_same(pose(part, BOXES[:2]), on_cpu(part.memory.copy(), BOXES[:2]))


def test_behind_the_cut_tensors_on_the_gpu_are_graphs_too(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """One graph serves them all, wherever they lie; the host's frames have their own."""
    pose = on_gpu()
    launched = []
    for seed in range(8):
        picture = make_picture(seed, (100 + 10 * seed, 120, 3)) if seed < 5 else make_picture(seed)
        frame = TorchLike(picture)
        assert_same(pose(frame if seed < 5 else picture, BOXES), on_cpu(picture, BOXES))
        launched.append(Graph.launched)
    assert launched == list(range(8))


def test_a_tensor_is_waited_for_until_it_is_cut_and_no_longer(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    tensor = TorchLike(make_picture(1))
    kept = pose(tensor, BOXES, to="device")
    network_and_decode = pose._pipeline._compute.work
    assert network_and_decode
    tensor.memory[:] = 0  # it is ours again
    assert_same(kept.to_host(), on_cpu(make_picture(1), BOXES))
    assert network_and_decode == []


def test_a_tensor_is_one_image_and_not_its_rows(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose, tensor = on_gpu(), TorchLike(make_picture(5))
    (result,) = pose.stream(tensor)
    assert_same(result, on_cpu(tensor.memory))
    with pytest.raises(TypeError, match="predict takes several images"):
        pose.predict(tensor)
    with pytest.raises(TypeError, match=r"maps are made of images in the host's memory: give image.cpu\(\)"):
        pose.activation_maps(tensor)
    with pytest.raises(TypeError, match="says neither its shape nor its dtype"):
        pose(SimpleNamespace(__dlpack_device__=lambda: (2, 0)), BOXES)


def test_a_tensor_is_nobodys_after_its_poses(on_gpu: Make) -> None:
    pose = on_gpu()
    lent = []
    for seed in range(4):
        tensor = TorchLike(make_picture(seed))
        lent.append(weakref.ref(tensor))
        pose(tensor, BOXES, to="device" if seed % 2 else "host")
        del tensor
    gc.collect()
    assert [tensor() for tensor in lent] == [None] * 4


def test_a_tensor_without_its_columns_is_refused(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose, picture, box = on_gpu(), make_picture(1), [[5, 5, 90, 90]]
    with pytest.raises(ValueError, match="whose rows are packed"):
        pose(TorchLike(picture[:, ::2]), box)
    assert_same(pose(TorchLike(picture[::2]), box), on_cpu(picture[::2].copy(), box))


def test_a_source_may_fill_the_same_tensor_again(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    tensor = TorchLike(make_picture(0))

    def source() -> Any:
        for seed in range(5):
            tensor.memory[:] = make_picture(seed)
            yield tensor

    for seed, result in enumerate(on_gpu().stream(source())):
        assert_same(result, on_cpu(make_picture(seed)))


def test_frames_of_a_jetsons_camera(on_gpu: Make, bundle: Path) -> None:
    """NV12 goes up as it is; a detector and a CPU get it as BGR, rounded to whole grey levels."""
    asked = []

    def detector(image: np.ndarray) -> np.ndarray:
        asked.append(image.shape)
        return np.array(BOXES, np.float32)

    frame = make_picture(4, (315, 220))
    bgr = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
    expected = PoseEstimator(bundle, backend="onnxruntime")(bgr, BOXES)
    on_cpu = PoseEstimator(bundle, backend="onnxruntime", color="nv12", detector=detector)
    pose = on_gpu(color="nv12", detector=detector)
    for estimator in (on_cpu, pose, pose, pose):
        found = estimator(frame)
        assert_same(found, expected, 0.03, 5e-3)
        assert found.image_size == (210, 220)
    assert asked == [(210, 220, 3)] * 4
    assert_same(pose(TorchLike(frame), BOXES), expected, 0.03, 5e-3)
    maps, others = (p.activation_maps(frame, BOXES).cams for p in (on_cpu, pose))
    np.testing.assert_allclose(maps, others, atol=1e-3)


@pytest.mark.parametrize("shape", [(210, 220, 3), (211, 220), (210, 221), (0, 220)], ids=str)
def test_what_is_no_frame_of_a_jetsons_camera(shape: tuple[int, ...], bundle: Path) -> None:
    pose = PoseEstimator(bundle, backend="onnxruntime", color="nv12")
    with pytest.raises(SourceError, match=r"an NV12 frame is \(3 H / 2, W\).*got shape"):
        pose(np.zeros(shape, np.uint8))
