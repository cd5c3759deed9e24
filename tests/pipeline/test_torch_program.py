"""Programs of Torch-TensorRT."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import engine_doubles
import pytest
from engine_doubles import FakeTensorRt
from pipeline_cases import BOXES, Make, assert_same, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.backends.engine_files import Fingerprint
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable


@pytest.fixture
def torch_program(
    tensorrt: FakeTensorRt, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Returns a function that writes a Torch-TensorRT program fitting this machine, or one with changes."""
    for name, module in engine_doubles.torch_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    model = (bundle / "model.onnx").read_bytes()
    fitting = Fingerprint(
        hashlib.sha256(model).hexdigest(),
        "torch_tensorrt",
        "2.11.0",
        "Tester 4000 SM86 x 46",
        "fp16",
        (1, 4, 16),
        Bundle.open(bundle).manifest.input.size,
    )

    def write(**change: Any) -> Path:
        path = bundle / "engines" / "program.ep"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model)
        facts = {**asdict(replace(fitting, **change)), "engine_sha256": fitting.model_sha256}
        path.with_suffix(".json").write_text(json.dumps(facts))
        return path

    return write


def test_a_program_of_torch_tensorrt(
    torch_program: Callable[..., Path], on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    torch_program()
    pose = on_gpu(backend="torch_tensorrt", precision="auto")
    for seed in range(4):
        boxes = BOXES[: 1 + seed % 3]
        assert_same(pose(make_picture(seed), boxes), on_cpu(make_picture(seed), boxes))
    assert pose.describe()["backend"] == "torch_tensorrt 2.11.0 cuda:0 (Tester 4000) fp16"
    assert on_gpu(backend="auto").describe()["backend"].startswith("tensorrt ")
    pose.close()
    with pytest.raises(RuntimeError, match="closed"):
        pose(make_picture(0), BOXES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "Tester 4000 SM86 x 8"}, "gpu: Tester 4000 SM86 x 46, not Tester 4000 SM86 x 8"),
        ({"version": "2.8.0"}, "version: 2.11.0, not 2.8.0"),
        ({"batches": (1, 4, 8)}, r"batches: \(1, 4, 16\), not \(1, 4, 8\)"),
        ({"model_sha256": "0" * 64}, "model_sha256: "),
        (None, "program.ep is damaged"),
    ],
    ids=["gpu", "version", "batch", "model", "damage"],
)
def test_a_program_that_does_not_fit_is_not_run(
    change: dict[str, Any] | None, words: str, torch_program: Callable[..., Path], on_gpu: Make
) -> None:
    path = torch_program(**(change or {}))
    if change is None:
        path.write_bytes(b"half a program")
    with pytest.raises(BackendUnavailable, match=f"{words}.*--engine torch-tensorrt makes one"):
        on_gpu(backend="torch_tensorrt", precision="auto")


def test_a_program_that_does_not_load_is_unavailable(
    torch_program: Callable[..., Path], on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> NoReturn:
        message = "CUDA out of memory"
        raise RuntimeError(message)

    torch_program()
    monkeypatch.setattr(sys.modules["torch_tensorrt"], "load", full)
    with pytest.raises(BackendUnavailable, match=r"cannot load .*program\.ep: CUDA out of memory"):
        on_gpu(backend="torch_tensorrt", precision="auto")


def test_what_torch_tensorrt_refuses_is_named(
    torch_program: Callable[..., Path], on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable, match="for this GPU: it has none"):
        on_gpu(backend="torch_tensorrt", precision="auto")
    with pytest.raises(BackendUnavailable, match="runs precision fp16, not 'int8'"):
        on_gpu(backend="torch_tensorrt", precision="int8")
    with pytest.raises(BackendUnavailable, match="runs on device 'cuda'"):
        on_gpu(backend="torch_tensorrt", precision="auto", device="cpu")
    monkeypatch.setattr(sys.modules["torch"].cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="torch sees no GPU"):
        on_gpu(backend="torch_tensorrt", precision="auto")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(BackendUnavailable, match="pip install torch-tensorrt"):
        on_gpu(backend="torch_tensorrt", precision="auto")
