"""ONNX Runtime's options: INT8 is computed exactly, by the fast way where the processor has one."""

from __future__ import annotations

import pytest

from lfpose_edge.backends import Request, onnxruntime
from lfpose_edge.bundle import Bundle
from lfpose_edge.zoo import bundle_path

PRECISE = "session.x64quantprecision"


@pytest.mark.parametrize("flags", [{"avx2", "avx512_vnni"}, {"avx2", "avx_vnni"}])
def test_a_processor_that_sums_in_32_bits_takes_the_fast_way(
    monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "cpu_flags", lambda: frozenset(flags))
    with pytest.raises(RuntimeError, match=PRECISE):
        onnxruntime.session_options().get_session_config_entry(PRECISE)


@pytest.mark.parametrize("flags", [{"avx2", "avx512bw"}, set()])
def test_where_sums_may_overflow_the_exact_way_is_taken(
    monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    monkeypatch.setattr(onnxruntime.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(onnxruntime, "cpu_flags", lambda: frozenset(flags))
    assert onnxruntime.session_options().get_session_config_entry(PRECISE) == "1"


def test_its_threads_leave_the_cores_to_the_kernels_after_a_run() -> None:
    assert onnxruntime.session_options(2).get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize(
    ("machine", "flags", "precision"),
    [("x86_64", {"avx_vnni"}, "int8"), ("AMD64", {"avx2"}, "fp32"), ("aarch64", set(), "int8")],
)
def test_left_to_choose_it_takes_int8_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(onnxruntime.platform, "machine", lambda: machine)
    monkeypatch.setattr(onnxruntime, "cpu_flags", lambda: frozenset(flags))
    backend = onnxruntime.load(Bundle.open(bundle_path("lfpose-lite")), Request(precision="auto"))
    assert backend.description.endswith(f" cpu {precision}")
    backend.close()
