"""ONNX Runtime's options: INT8 is computed exactly, by the fast way where the processor has one."""

from __future__ import annotations

import pytest

from lfpose_edge.backends import onnxruntime

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
    monkeypatch.setattr(onnxruntime, "cpu_flags", lambda: frozenset(flags))
    assert onnxruntime.session_options().get_session_config_entry(PRECISE) == "1"
