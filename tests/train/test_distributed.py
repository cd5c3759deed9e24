"""What a training computes on: the precision of its device, processes that torchrun started."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.machine import cpu_flags
from lfpose_edge.train.distributed import make_fabric
from lfpose_edge.train.loop import train
from lfpose_edge.train.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def test_float16_is_not_replaced_on_a_cpu(figures: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="16-mixed needs a GPU; on a CPU take bf16-mixed"):
        train(make_recipe(precision="16-mixed"), data_root=figures, out=tmp_path, accelerator="cpu")
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("kernels", [True, False])
def test_bfloat16_is_computed_where_the_cpu_has_it(
    kernels: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As oneDNN does on x86: from AVX-512 on."""
    flags = cpu_flags()
    if kernels and platform.machine() != "x86_64":
        pytest.skip("what oneDNN asks of other processors is not looked up here")
    if not kernels:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    caplog.set_level("INFO", logger="lfpose_edge")
    able = kernels and {"avx512bw", "avx512dq", "avx512vl"} <= flags
    with make_fabric("cpu", "bf16-mixed").autocast():
        assert torch.is_autocast_enabled("cpu") == able
    assert caplog.messages == ([] if able else ["no bfloat16 on this CPU: training in 32-true"])


def test_processes_without_torchrun_are_refused(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BackendUnavailable, match="start several processes with torchrun"):
        train(make_recipe(), data_root=figures, out=tmp_path)
