"""What is known of the processor, with Linux's word and without it."""

from __future__ import annotations

import pytest

from lfpose_edge import _core, machine

ASKED = {"sse4_2", "avx2", "avx512bw", "avx512_vnni", "avx_vnni"}


def test_the_processor_itself_says_what_linux_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said = machine.cpu_flags()
    if not said:
        pytest.skip("no x86 Linux, whose word would be compared")
    assert set(_core.cpu_flags()) == said & ASKED
    overflows = machine.int8_overflows()
    monkeypatch.setattr(machine, "_cpu_entries", dict)  # as on Windows and macOS
    assert machine.cpu_flags() == said & ASKED
    assert machine.int8_overflows() == overflows


def test_without_a_word_of_vnni_int8_may_overflow_on_x86_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_entries", dict)
    monkeypatch.setattr(_core, "cpu_flags", lambda: ["avx2"])
    for name, overflows in (("AMD64", True), ("arm64", False)):
        monkeypatch.setattr(machine.platform, "machine", lambda name=name: name)
        assert machine.int8_overflows() is overflows


def test_a_result_names_what_its_processor_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"model name": "Xeon", "cpu family": "6", "model": "207"}
    for flags, shown in (
        ("fpu avx2 avx512bw amx_int8 avx512_vnni", ", avx512bw, avx512_vnni, amx_int8"),
        ("sse4_2 avx2 avx_vnni", ", avx2, avx_vnni"),
        ("fpu", ""),
    ):
        monkeypatch.setattr(machine, "_cpu_entries", lambda flags=flags: {**entries, "flags": flags})
        assert machine.cpu_model() == f"Xeon (family 6, model 207){shown}"


def test_the_kernels_use_what_the_processor_has() -> None:
    """By features: a version for one processor's name would run on that one alone."""
    flags = machine.cpu_flags()
    if not machine._cpu_entries() or "lm" not in flags:
        pytest.skip("no x86 Linux, whose word would be compared")
    level3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"} <= flags
    level4 = level3 and {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")} <= flags
    assert machine.instruction_set() == ("AVX-512" if level4 else "AVX2" if level3 else "baseline")
