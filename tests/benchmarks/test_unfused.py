"""The torch code that the GPU's kernels are timed against does the same work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_scripts import BENCHMARKS, benchmark
from kernel_cases import bump, random_image

from lfpose_edge import PoseEstimator, ops
from lfpose_edge.bundle import Bundle
from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops import gpu
from lfpose_edge.sources import load_image
from lfpose_edge.zoo import bundle_path


def test_the_crops_are_the_same() -> None:
    image = random_image((120, 150, 3))
    affines = crop_affines(np.array([[20.0, 10, 90, 100], [-10, 30, 60, 140]]), (48, 40), rotation_deg=20)
    mean, std = (10, 20, 30), (1, 2, 3)
    unfused = benchmark("unfused")
    constants = unfused.crop_constants((120, 150), (48, 40), mean, std, "cpu")
    found = unfused.crop(torch.from_numpy(image), torch.from_numpy(affines).float(), (48, 40), constants)
    expected = ops.preprocess(image, affines, (48, 40), swap_rb=True, mean=mean, std=std)
    assert np.abs(found.numpy() - expected).max() < 0.05


def test_the_joints_are_the_same() -> None:
    """But for the blur's last weights, and within a cell of the border, where torch's does not refine."""
    cams = bump((8, 5, 24, 20), np.random.default_rng(0)).astype(np.float32)
    presence = np.zeros((8, 5), np.float32)
    row, column = np.divmod(cams.reshape(8, 5, -1).argmax(axis=2), 20)
    inside = (np.minimum(row, 23 - row) >= 2) & (np.minimum(column, 19 - column) >= 2)
    assert inside.sum() >= 10
    affines = np.tile(np.array([[1.5, 0.2, 30], [-0.2, 1.5, 70]]), (8, 1, 1))
    found = benchmark("unfused").decode(
        torch.from_numpy(cams), torch.from_numpy(presence), torch.from_numpy(affines).float(), 4
    )
    expected = ops.decode(cams, presence, affines, ops.DecodeConfig(4))
    away = np.linalg.norm(found[0].numpy() - expected[0], axis=2)
    assert away[inside].max() < 0.1
    np.testing.assert_allclose(found[1].numpy(), expected[1], atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_torch_finds_the_same_people(compiled: bool) -> None:
    """With the shipped network; what is compiled here goes through the graph, without a code generator."""
    frames = benchmark("torch_frames").TorchFrames(Bundle.open(bundle_path("lfpose-lite")), "cpu")
    if compiled:
        frames._work = torch.compile(frames._joints, backend="eager")
    photo, boxes = load_image(PHOTO), np.array([[60, 10, 400, 500], [100, 10, 360, 300]], np.float32)
    expected = PoseEstimator(backend="onnxruntime", precision="fp32", threads=1)(photo, boxes)
    found = frames(photo, boxes)
    sure = expected.scores > 0.35
    assert sure.sum() >= 6
    assert np.linalg.norm(found.keypoints - expected.keypoints, axis=2)[sure].max() < 2
    np.testing.assert_allclose(found.presence, expected.presence, atol=5e-3)
    assert found.timings.total_ms > 0


def test_without_a_gpu_the_benchmark_says_so(tmp_path: Path) -> None:
    try:
        gpu.open_device()
    except BackendUnavailable:
        pass
    else:
        pytest.skip("there is a GPU: run the benchmark itself")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_kernels.py"), "--json", str(tmp_path / "out.json")],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out.json").exists()
