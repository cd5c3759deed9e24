"""What a GPU or its engine refuses is named, and ``auto`` passes it over."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_doubles
import numpy as np
import pytest
from engine_doubles import FakeTensorRt
from pipeline_cases import BOXES, Make, full_disk, make_picture

from lfpose_edge import PoseEstimator
from lfpose_edge.backends import available, engine_cache
from lfpose_edge.errors import BackendUnavailable, BundleError, EngineMismatch


def _refusing(why: str) -> Callable[[Any], Any]:
    """TensorRT's runtime that reads no engine, and logs why."""

    def runtime(log: Any) -> Any:
        log.errors.append(why)
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: None)

    return runtime


def test_what_the_engine_refuses_is_named(
    tensorrt: FakeTensorRt, on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable, match="runs on device 'cuda'"):
        on_gpu(device="cpu")
    with pytest.raises(BackendUnavailable, match="no device cuda:3"):
        on_gpu(device="cuda:3")
    with pytest.raises(BackendUnavailable, match="fp32, fp16 or int8, not 'bf16'"):
        on_gpu(precision="bf16")
    pose = on_gpu()
    with pytest.raises(BackendUnavailable, match="the GPU fails: cannot allocate .*: out of memory"):
        pose(np.zeros((20000, 20000, 3), np.uint8), BOXES)
    pose(make_picture(0), BOXES)  # and it goes on
    pose(make_picture(0), BOXES)

    monkeypatch.setattr(tensorrt, "Runtime", _refusing("wrong GPU"))
    with pytest.raises(EngineMismatch, match="cannot read the engine: wrong GPU") as caught:
        on_gpu()
    assert isinstance(caught.value, BackendUnavailable)  # what an estimator says that it raises


def test_from_11_on_half_precision_is_the_files(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    tensorrt.__version__ = "11.4.0"
    assert "fp32" in on_gpu(precision="auto").describe()["backend"]
    with pytest.raises(BackendUnavailable, match="lfpose-export MODEL --out BUNDLE --engine"):
        on_gpu(precision="fp16")


def test_auto_takes_the_gpu(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    assert on_gpu(backend="auto").describe()["backend"].startswith("tensorrt 10.3.0 cuda:0")
    assert on_gpu(backend="auto", device="cpu").describe()["backend"].split()[0] in (
        "openvino",
        "onnxruntime",
    )


def test_an_engine_of_other_types_is_refused(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    tensorrt.float32 = "half"
    with pytest.raises(BundleError, match=r"the engine's crops are .*, the bundle's float32"):
        on_gpu()


def test_a_gpu_without_memory_for_an_engine_builds_no_other(
    tensorrt: FakeTensorRt, on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu().close()
    monkeypatch.setattr(tensorrt, "Runtime", _refusing("Requested amount of GPU memory: CUDA out of memory"))
    with pytest.raises(BackendUnavailable, match="out of memory"):
        on_gpu()
    assert tensorrt.builds == 1


def test_a_gpu_that_goes_away_is_named_and_hides_nothing(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(self: Any) -> None:
        message = "cannot finish the work on the device: unspecified launch failure (cudaErrorLaunchFailure)"
        raise gpu_doubles.CudaError(message)

    pose = on_gpu()
    kept = pose(make_picture(0), BOXES, to="device")
    with pytest.raises(KeyError, match="mine"), pose:  # noqa: PT012
        monkeypatch.setattr(gpu_doubles.Stream, "synchronize", lost)
        with pytest.raises(BackendUnavailable, match="the GPU fails: .*launch failure"):
            kept.to_host()
        raise KeyError("mine")  # noqa: EM101
    assert "closing after KeyError: the GPU fails" in caplog.text
    assert pose._pipeline._free == []


def _not_starting(log: Any) -> Any:
    message = "pybind11::init(): factory function returned nullptr"
    raise TypeError(message)


def _no_stream(device: int = 0) -> Any:
    message = "cannot create a stream: all CUDA-capable devices are busy"
    raise gpu_doubles.CudaError(message)


def _no_memory(*_: Any) -> Any:
    message = "cannot allocate device memory: out of memory"
    raise gpu_doubles.CudaError(message)


def _no_facts(device: int = 0) -> Any:
    message = "cannot ask for the device's properties: unknown error"
    raise gpu_doubles.CudaError(message)


@pytest.mark.parametrize(
    "fault",
    ["does not start", "no stream", "no facts", "old GPU", "cache", "namespace", "first run", "large maps"],
)
def test_auto_passes_a_gpu_over_that_does_not_work(
    fault: str,
    tensorrt: FakeTensorRt,
    on_gpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {}
    if fault == "does not start":
        monkeypatch.setattr(tensorrt, "Builder", _not_starting)
        words = "does not start"
    elif fault == "no stream":
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "Stream", _no_stream)
        words = "cuda:0 cannot be used: cannot create a stream"
    elif fault == "no facts":
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "device_facts", _no_facts)
        words = "the GPU fails: cannot ask for the device's properties"
    elif fault == "old GPU":
        old = {"name": "Tesla V100", "compute_capability": (7, 0), "multiprocessors": 80}
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "device_facts", lambda device: old)
        words = "Tesla V100 is of compute capability 7.0: 7.5 or later is needed"
    elif fault == "cache":
        monkeypatch.setattr(engine_cache, "write_engine", full_disk)
        words = "No space left"
    elif fault == "first run":  # the engine fits into the GPU's memory, and what it works in does not
        monkeypatch.setattr(gpu_doubles.DeviceArray, "empty", _no_memory)
        words = "the GPU fails: cannot allocate device memory: out of memory"
    elif fault == "large maps":
        monkeypatch.setattr(gpu_doubles.Decoder, "shared_bytes", lambda *_: 200_000)
        words = "needs 200000 bytes of shared memory, and Tester 4000 has 101376"
    else:
        monkeypatch.delattr(tensorrt, "__version__")
        words = "tensorrt is a folder here"
    with caplog.at_level(logging.INFO):
        pose = on_gpu(backend="auto", **options)
    assert pose.describe()["backend"].split()[0] in ("openvino", "onnxruntime")
    assert words in caplog.text
    with pytest.raises((BackendUnavailable, OSError), match=re.escape(words)):
        on_gpu()


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), False), ((8, 0), True), ((8, 7), False), ((8, 9), True), ((9, 0), False), ((12, 1), True)],
)
def test_tensorrt_for_rtx_is_not_offered_where_it_reads_no_engine(
    capability: tuple[int, int],
    runs: bool,
    tensorrt: FakeTensorRt,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1.7.1 builds an engine for an H200 without complaint, and then refuses to load it there."""
    for_rtx = FakeTensorRt("1.7.1.116")
    for_rtx.__name__ = "tensorrt_rtx"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", for_rtx)
    facts = {"name": "A GPU", "compute_capability": capability, "multiprocessors": 8}
    monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "device_facts", lambda device: facts)
    reason = available()["tensorrt_rtx"]
    assert (reason is None) == runs
    if not runs:
        words = f"and A GPU is of {capability[0]}.{capability[1]}: use TensorRT"
        assert words in str(reason)
        with pytest.raises(BackendUnavailable, match=re.escape(words)):
            PoseEstimator(bundle, backend="tensorrt_rtx", precision="fp32")


def test_a_gpu_that_will_not_do_hides_no_other(
    tensorrt: FakeTensorRt, on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"name": "A GPU", "multiprocessors": 8, "shared_memory_bytes": 101376}
    cuda = sys.modules["lfpose_edge._cuda"]
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    capabilities = ((7, 0), (8, 6))
    monkeypatch.setattr(
        cuda, "device_facts", lambda device: {**facts, "compute_capability": capabilities[device]}
    )
    assert available()["tensorrt"] is None
    assert "cuda:1" in on_gpu(device="cuda:1").describe()["backend"]
    with pytest.raises(BackendUnavailable, match=r"is of compute capability 7\.0: 7\.5 or later"):
        on_gpu(device="cuda:0")
