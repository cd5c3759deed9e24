"""A machine with a GPU and TensorRT, on doubles, and the CPU beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gpu_doubles
import pytest
from bundles import write_spot_bundle
from engine_doubles import FakeTensorRt
from gpu_doubles import Graph
from pipeline_cases import Make

import lfpose_edge
from lfpose_edge import PoseEstimator


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A machine with a GPU and TensorRT."""
    module, cuda = FakeTensorRt(), gpu_doubles.cuda_module()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "lfpose_edge._cuda", cuda)
    monkeypatch.setattr(lfpose_edge, "_cuda", cuda, raising=False)
    monkeypatch.setattr(Graph, "launched", 0)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_spot_bundle(tmp_path / "spot")


@pytest.fixture
def on_gpu(tensorrt: FakeTensorRt, bundle: Path, tmp_path: Path) -> Make:
    def make(**options: Any) -> PoseEstimator:
        return PoseEstimator(
            bundle, **{"backend": "tensorrt", "precision": "fp32", "cache_dir": tmp_path / "cache", **options}
        )

    return make


@pytest.fixture
def on_cpu(bundle: Path) -> PoseEstimator:
    return PoseEstimator(bundle, backend="onnxruntime")
