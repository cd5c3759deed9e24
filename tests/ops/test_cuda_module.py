"""`_cuda` without a GPU: it loads and says what is missing, and its kernels compile without spilling."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops import gpu

CSRC = Path(__file__).resolve().parents[2] / "csrc"


@pytest.fixture
def cuda():
    return pytest.importorskip("lfpose_edge._cuda", reason="built without CUDA kernels: no nvcc was found")


def test_without_a_device_there_is_one_clear_error(cuda) -> None:
    try:
        count = cuda.device_count()
    except cuda.CudaError as error:
        assert "cannot find a CUDA device" in str(error)
        with pytest.raises(BackendUnavailable, match="no CUDA device can be used.*driver"):
            gpu.open_device()
        with pytest.raises(cuda.CudaError, match="cannot (find the driver|take the device)"):
            cuda.enter_device(0)
    else:
        with pytest.raises(BackendUnavailable, match=f"no device cuda:{count}"):
            gpu.open_device(count)


def test_a_build_without_kernels_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import lfpose_edge

    monkeypatch.setitem(sys.modules, "lfpose_edge._cuda", None)
    monkeypatch.delattr(lfpose_edge, "_cuda", raising=False)
    with pytest.raises(BackendUnavailable, match="built without its CUDA kernels.*nvcc"):
        gpu.open_device()


@pytest.mark.parametrize(
    ("affines", "words"),
    [
        (np.zeros((1, 2, 2)), "affines must have shape"),
        (np.full((1, 2, 3), np.nan), "affines must be finite"),
    ],
    ids=["shape", "NaN"],
)
def test_crops_are_planned_of_affines_alone(affines: np.ndarray, words: str, cuda) -> None:
    with pytest.raises(ValueError, match=words):
        cuda.plan_crops(affines, (8, 8))


def test_signatures_speak_of_python_alone(cuda) -> None:
    """A C++ name in a signature means that nothing converts what the function takes or returns."""
    functions = [getattr(cuda, name) for name in dir(cuda)]
    functions += [getattr(f, name) for f in functions if isinstance(f, type) for name in vars(f)]
    signatures = [f.__doc__ for f in functions if getattr(f, "__doc__", None)]
    assert len(signatures) > 30
    assert [text for text in signatures if "::" in text] == []


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
@pytest.mark.parametrize("kernel", ["decode", "preprocess"])
def test_kernels_compile_without_a_warning_or_a_spill(kernel: str, cuda, tmp_path: Path) -> None:
    """For every GPU of the build that this nvcc knows, with the registers that eight blocks leave."""
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    architectures = [
        number for number in ("75", "80", "86", "87", "89", "90", "120") if f"sm_{number}" in known
    ]
    assert len(architectures) >= 6
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    options = ["-std=c++17", "-O3", "-t2", "-Xptxas", "-v", "-Werror", "all-warnings", "-fatbin", *targets]
    files = ["-I", CSRC / "include", CSRC / f"cuda/{kernel}.cu", "-o", tmp_path / "kernel"]
    done = subprocess.run(["nvcc", *options, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr)]
    stacks = [int(n) for n in re.findall(r"(\d+) bytes stack frame", done.stderr)]
    assert len(stacks) >= 2 * len(architectures)
    assert (sum(spills), sum(stacks)) == (0, 0), done.stderr
