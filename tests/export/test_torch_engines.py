"""The Torch-TensorRT route, with a stand-in for the compiler: only the compiler itself needs a GPU."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lfpose_edge.export import export_bundle, on_gpu, torch_engines
from lfpose_edge.export.build import Engines
from nets import write_blob_bundle

from lfpose_edge.errors import AccuracyGateError, BackendUnavailable, BundleError
from lfpose_edge.train.checkpoint import save_checkpoint
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import parse_recipe

RECIPE = {
    "name": "tiny",
    "skeleton": "lsp14",
    "data": {part: {"annotations": "a.json", "images": "i"} for part in ("train", "val")},
    "network": {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16, 16]},
    "stages": [{"epochs": 1, "size": [32, 32]}],
}
WANTED = Engines("torch_tensorrt")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    recipe = parse_recipe(RECIPE, where="test")
    state = build_network(recipe.network, recipe.joints).state_dict()
    save_checkpoint(tmp_path / "last.pt", {"recipe": recipe.model_dump(mode="json"), "ema": state, "step": 5})
    return tmp_path / "last.pt"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A ``torch_tensorrt`` that compiles nothing, on the CPU; its ``calls`` record how it was called."""
    calls: dict[str, Any] = {}

    def compile_(module: torch.nn.Module, **options: Any) -> Any:
        calls["compile"] = options
        return module if "error" not in calls else lambda crops: [t + calls["error"] for t in module(crops)]

    def save(module: Any, path: str, **options: Any) -> None:
        calls["save"] = options
        Path(path).write_bytes(b"program")

    module = ModuleType("torch_tensorrt")
    vars(module).update(
        __version__="2.99", Input=lambda **shape: shape, compile=compile_, save=save, calls=calls
    )
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    monkeypatch.setattr(on_gpu, "DEVICE", "cpu")
    return SimpleNamespace(calls=calls)


def test_a_checkpoint_is_compiled_with_a_free_batch(checkpoint: Path, tmp_path: Path, compiler) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "b", engines=WANTED)
    (crops,) = compiler.calls["compile"]["inputs"]
    assert (crops["min_shape"], crops["max_shape"]) == ((1, 3, 32, 32), (16, 3, 32, 32))
    assert compiler.calls["compile"]["use_explicit_typing"]
    (engine,) = (tmp_path / "b/engines").glob("*.ep")
    facts = json.loads(engine.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["engine_sha256"] == hashlib.sha256(b"program").hexdigest()
    assert facts["model_sha256"] == bundle.manifest.files["model.onnx"].sha256
    assert (facts["library"], facts["version"], facts["precision"]) == ("torch_tensorrt", "2.99", "fp16")


def test_an_engine_that_computes_something_else_is_not_published(
    checkpoint: Path, tmp_path: Path, compiler
) -> None:
    compiler.calls["error"] = 1.0
    with pytest.raises(AccuracyGateError, match="torch_tensorrt fp16 differs"):
        export_bundle(checkpoint, tmp_path / "b", engines=WANTED)
    assert not (tmp_path / "b").exists()


def test_only_a_checkpoint_has_a_network_to_compile(tmp_path: Path, compiler) -> None:
    with pytest.raises(BundleError, match="export a checkpoint"):
        export_bundle(write_blob_bundle(tmp_path / "blob"), tmp_path / "b", engines=WANTED)
    assert "compile" not in compiler.calls


def test_without_torch_tensorrt_the_error_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(BackendUnavailable, match="pip install torch-tensorrt"):
        export_bundle(checkpoint, tmp_path / "b", engines=WANTED)
    assert not (tmp_path / "b").exists()


def test_without_a_gpu_it_is_refused(compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees none" in str(torch_engines.unavailable())
