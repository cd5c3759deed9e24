"""pycuda in the primary context, on a stand-in for its driver."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import gpu_doubles
import numpy as np
import pytest

import lfpose_edge
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops.pycuda import as_gpuarray, primary_context


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Simulate a machine with pycuda; returns what is done to its contexts."""
    done: list[str] = []

    def retain(number: int) -> Any:
        done.append(f"retain {number}")
        return SimpleNamespace(push=lambda: done.append("push"), pop=lambda: done.append("pop"))

    driver, gpuarray = ModuleType("pycuda.driver"), ModuleType("pycuda.gpuarray")
    vars(driver).update(
        init=lambda: done.append("init"),
        Device=lambda number: SimpleNamespace(retain_primary_context=lambda: retain(number)),
        PointerHolderBase=object,
    )
    vars(gpuarray).update(GPUArray=lambda shape, dtype, **rest: SimpleNamespace(shape=shape, **rest))
    cuda = gpu_doubles.cuda_module()
    for name, module in {
        "pycuda": ModuleType("pycuda"),
        "pycuda.driver": driver,
        "pycuda.gpuarray": gpuarray,
        "lfpose_edge._cuda": cuda,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(lfpose_edge, "_cuda", cuda, raising=False)
    return done


def test_the_primary_context_is_retained_and_let_go(contexts: list[str]) -> None:
    with primary_context():
        assert contexts == ["init", "retain 0", "push"]
    assert contexts[3:] == ["pop"]
    with pytest.raises(KeyError), primary_context():
        raise KeyError
    assert contexts[4:] == ["init", "retain 0", "push", "pop"]


def test_an_array_is_lent_in_order(contexts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        gpu_doubles.DeviceArray, "__dlpack__", lambda self, stream: asked.append(stream), raising=False
    )
    array = gpu_doubles.DeviceArray.empty((2, 3), np.dtype(np.float32), gpu_doubles.Stream())
    taken = as_gpuarray(array)
    assert (taken.shape, taken.base) == ((2, 3), array)
    assert taken.gpudata.get_pointer() == array.memory.ctypes.data
    assert asked == [1]


def test_what_is_missing_is_named(contexts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="no device cuda:4"), primary_context(4):
        pass
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailable, match="pycuda cannot be imported.*pip install"), primary_context():
        pass
    assert contexts == []
