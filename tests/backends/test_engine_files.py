"""Engines on disk: found by what they were built for, refused when that differs or a byte has flipped."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lfpose_edge.backends import engine_files
from lfpose_edge.backends.engine_files import Fingerprint, engine_path, read_engine, write_engine
from lfpose_edge.errors import EngineMismatch

ONE = Fingerprint("a" * 64, "tensorrt", "10.3.0", "Orin", "int8", (1, 4, 16), (192, 192))


def test_an_engine_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "engines", ONE, b"plan")
    assert path == engine_path(tmp_path / "engines", ONE)
    assert read_engine(path, ONE) == b"plan"
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".engine", ".json"]


CHANGES = {
    "model": {"model_sha256": "b" * 64},
    "library": {"library": "tensorrt_rtx"},
    "version": {"version": "10.4.0"},
    "gpu": {"gpu": "RTX 4090"},
    "precision": {"precision": "fp16"},
    "batches": {"batches": (1, 1, 1)},
    "size": {"size": (256, 192)},
    "options": {"options": "dla 0"},
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_makes_another_engine_and_the_message_names_it(tmp_path: Path, field: str) -> None:
    other = replace(ONE, **CHANGES[field])
    assert other.key != ONE.key
    path = write_engine(tmp_path, ONE, b"plan")
    name, value = next(iter(CHANGES[field].items()))
    with pytest.raises(EngineMismatch, match="was built for another case") as caught:
        read_engine(path, other)
    assert f"{name}: {value}, not {getattr(ONE, name)}" in str(caught.value)


def test_an_engine_without_a_sidecar_never_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(engine_files, "write_bytes_whole", full)
    with pytest.raises(OSError, match="No space left"):
        write_engine(tmp_path, ONE, b"plan")
    assert [path.name for path in tmp_path.iterdir()] == [f"{ONE.key}.json"]


def _flip(path: Path) -> None:
    path.write_bytes(b"plam")


def _say(**facts: object) -> Callable[[Path], object]:
    """A sidecar that says something else about this very engine."""

    def say(path: Path) -> None:
        sidecar = path.with_suffix(".json")
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text(encoding="utf-8")) | facts))

    return say


DAMAGES = {
    "no batches": (_say(batches=[]), "no readable sidecar"),
    "a word among batches": (_say(batches=[1, "4", 16]), "no readable sidecar"),
    "half a pixel": (_say(size=[192, 95.5]), "no readable sidecar"),
    "a number as options": (_say(options=5), "no readable sidecar"),
    "flipped byte": (_flip, "is damaged"),
    "no sidecar": (lambda path: path.with_suffix(".json").unlink(), "no readable sidecar"),
    "broken sidecar": (lambda path: path.with_suffix(".json").write_text("{"), "no readable sidecar"),
    "other sidecar": (lambda path: path.with_suffix(".json").write_text("{}"), "no readable sidecar"),
    "no engine": (lambda path: path.unlink(), "no readable sidecar"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_engine_is_refused(tmp_path: Path, case: str) -> None:
    path = write_engine(tmp_path, ONE, b"plan")
    harm, words = DAMAGES[case]
    harm(path)
    with pytest.raises(EngineMismatch, match=words):
        read_engine(path, ONE)
