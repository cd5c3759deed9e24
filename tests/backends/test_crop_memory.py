"""Crops lie in memory as the engine reads them, and may lie otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import write_spot_bundle

from lfpose_edge import PoseEstimator
from lfpose_edge.backends import Request, load_backend
from lfpose_edge.backends.base import crop_memory
from lfpose_edge.bundle import Bundle

ENGINES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 3])
def test_both_layouts_are_the_same_crops(tmp_path: Path, engine: str, n: int) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    bundle = Bundle.open(write_spot_bundle(tmp_path / "b"))
    size = bundle.manifest.input.size
    backend = load_backend(bundle, engine, Request())
    found = []
    for channels_last in (False, True):
        crops = crop_memory(n, size, channels_last=channels_last)
        crops[:] = np.random.default_rng(0).normal(size=crops.shape)
        found.append(backend.infer(crops))
    for planes, pixels in zip(*found, strict=True):
        np.testing.assert_array_equal(planes, pixels)
    backend.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("persons", [1, 2])
def test_an_engine_is_given_crops_that_it_need_not_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, persons: int
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    given = []
    with PoseEstimator(write_spot_bundle(tmp_path / "b"), backend=engine) as estimator:
        backend = estimator._backend
        infer = backend.infer
        monkeypatch.setattr(backend, "infer", lambda crops: given.append(crops) or infer(crops))
        estimator(np.zeros((40, 50, 3), np.uint8), boxes=[[0, 0, 20, 30], [10, 10, 30, 40]][:persons])
    (crops,) = given
    assert crops.shape[:2] == (persons, 3)
    memory = crops.transpose(0, 2, 3, 1) if engine == "openvino" else crops
    assert memory.flags.c_contiguous
