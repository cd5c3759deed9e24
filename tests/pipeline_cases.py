"""Pictures with people in them, what must be the same on a GPU as on a CPU, and a disk that is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lfpose_edge import PoseEstimator

Make = Callable[..., PoseEstimator]
BOXES = [[10, 20, 90, 120], [60, 40, 150, 160], [100, 10, 200, 200]]


def make_picture(seed: int, size: tuple[int, ...] = (210, 220, 3)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-size[0] // 20), -(-size[1] // 20), *size[2:]))
    return coarse.astype(np.uint8).repeat(20, axis=0).repeat(20, axis=1)[: size[0], : size[1]].copy()


def assert_same(found: Any, expected: Any, pixels: float = 2e-3, probability: float = 1e-4) -> None:
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=pixels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=probability)
    np.testing.assert_allclose(found.presence, expected.presence, atol=probability)


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")
