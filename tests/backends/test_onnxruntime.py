"""ONNX Runtime's options: INT8 is computed exactly, by the fast way where the processor has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as engine
import pytest
from bundles import write_spot_bundle

from lfpose_edge import backends
from lfpose_edge import machine as facts
from lfpose_edge.backends import Request, load_backend, onnxruntime, openvino
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.zoo import bundle_path

PRECISE = "session.x64quantprecision"


@pytest.mark.parametrize("flags", [{"avx2", "avx512_vnni"}, {"avx2", "avx_vnni"}])
def test_a_processor_that_sums_in_32_bits_takes_the_fast_way(
    monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    monkeypatch.setattr(facts, "cpu_flags", lambda: frozenset(flags))
    with pytest.raises(RuntimeError, match=PRECISE):
        onnxruntime.session_options().get_session_config_entry(PRECISE)


@pytest.mark.parametrize("flags", [{"avx2", "avx512bw"}, set()])
def test_where_sums_may_overflow_the_exact_way_is_taken(
    monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    monkeypatch.setattr(facts.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(facts, "cpu_flags", lambda: frozenset(flags))
    assert onnxruntime.session_options().get_session_config_entry(PRECISE) == "1"


def test_the_threads_that_are_asked_for_are_the_engines() -> None:
    assert onnxruntime.session_options(3).intra_op_num_threads == 3
    bundle = Bundle.open(bundle_path("lfpose-lite"))
    if reason := openvino.unavailable():
        pytest.skip(reason)
    backend = openvino.load(bundle, Request(threads=1))
    assert backend._one.get_property("INFERENCE_NUM_THREADS") == 1
    backend.close()


def test_openvino_keeps_what_it_compiled_where_it_is_told(tmp_path: Path) -> None:
    if reason := openvino.unavailable():
        pytest.skip(reason)
    bundle = Bundle.open(write_spot_bundle(tmp_path / "b"))
    openvino.load(bundle, Request(cache_dir=str(tmp_path / "cache"))).close()
    assert list((tmp_path / "cache").iterdir())


def test_what_cannot_be_prepared_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(write_spot_bundle(tmp_path / "b"))
    closed: list[Any] = []
    monkeypatch.setattr(onnxruntime.OnnxRuntimeBackend, "close", lambda self: closed.append(self))

    def refused(backend: Any) -> None:
        raise BackendUnavailable(backend.description)

    with pytest.raises(BackendUnavailable, match="onnxruntime"):
        load_backend(bundle, "onnxruntime", Request(), refused)
    assert len(closed) == 1


def test_auto_takes_openvino_on_x86_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := openvino.unavailable():
        pytest.skip(reason)
    bundle = Bundle.open(write_spot_bundle(tmp_path / "b"))
    for machine, expected in (("x86_64", "openvino"), ("aarch64", "onnxruntime")):
        monkeypatch.setattr(backends.platform, "machine", lambda machine=machine: machine)
        backend = load_backend(bundle, "auto", Request("cpu"))
        assert backend.description.startswith(expected)
        backend.close()


def test_its_threads_leave_the_cores_to_the_kernels_after_a_run() -> None:
    assert onnxruntime.session_options(2).get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize("backend", [onnxruntime, openvino], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("machine", "flags", "precision"),
    [("x86_64", {"avx_vnni"}, "int8"), ("AMD64", {"avx2"}, "fp32"), ("aarch64", set(), "int8")],
)
def test_left_to_choose_they_take_int8_where_it_is_fast_and_exact(
    monkeypatch: pytest.MonkeyPatch, backend: Any, machine: str, flags: set[str], precision: str
) -> None:
    if reason := backend.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(facts.platform, "machine", lambda: machine)
    monkeypatch.setattr(facts, "cpu_flags", lambda: frozenset(flags))
    chosen = backend.load(Bundle.open(bundle_path("lfpose-lite")), Request(precision="auto"))
    assert chosen.description.endswith(f" cpu {precision}")
    chosen.close()


def test_openvino_says_when_int8_that_was_asked_for_is_not_exact(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if reason := openvino.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(openvino, "int8_overflows", lambda: True)
    openvino.load(Bundle.open(bundle_path("lfpose-lite")), Request(precision="int8")).close()
    assert "not exact on this CPU" in caplog.text


class _Session:
    """Records the providers that it was created with; ``used`` are those that it reports."""

    asked: Any = None
    used: ClassVar[list[str]] = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def __init__(self, path: str, options: Any, providers: Any, enable_fallback: int) -> None:
        assert enable_fallback == 0  # otherwise a failing call would continue on the CPU
        _Session.asked = providers

    def get_providers(self) -> list[str]:
        return self.used


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that was built for CUDA."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engine, "get_available_providers", lambda: providers)
    monkeypatch.setattr(engine, "InferenceSession", _Session)


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_is_taken_when_it_is_asked_for(
    device: str, number: int, with_cuda: None, tmp_path: Path
) -> None:
    bundle = Bundle.open(write_spot_bundle(tmp_path / "spot"))
    backend = load_backend(bundle, "onnxruntime", Request(device=device))
    assert _Session.asked == [
        ("CUDAExecutionProvider", {"device_id": number, "cudnn_conv_algo_search": "HEURISTIC"})
    ]
    assert backend.description.endswith(f"cuda:{number} fp32")
    load_backend(bundle, "onnxruntime", Request())
    assert _Session.asked == ["CPUExecutionProvider"]


def test_a_gpu_that_cannot_be_had_is_no_silent_cpu(
    with_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(write_spot_bundle(tmp_path / "spot"))
    with pytest.raises(BackendUnavailable, match="fp32 on a GPU, not 'int8'"):
        load_backend(bundle, "onnxruntime", Request(device="cuda", precision="int8"))
    with pytest.raises(BackendUnavailable, match="unknown device 'tpu'"):
        load_backend(bundle, "onnxruntime", Request(device="tpu"))
    with pytest.raises(BackendUnavailable, match="'cuda:0', not 'tpu'"):
        onnxruntime.load(bundle, Request(device="tpu"))
    monkeypatch.setattr(_Session, "used", ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="cannot use cuda:0: its CUDA or cuDNN libraries"):
        load_backend(bundle, "onnxruntime", Request(device="cuda"))
    monkeypatch.setattr(engine, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime-gpu"):
        load_backend(bundle, "onnxruntime", Request(device="cuda"))
