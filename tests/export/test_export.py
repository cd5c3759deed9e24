"""Export: the bundle computes what the network computes, is reproducible, and appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lfpose_edge.export import export_bundle, source
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.quantize import tail_layers
from lfpose_edge.export.to_onnx import to_onnx

from lfpose_edge.backends import Request, load_backend
from lfpose_edge.bundle import Decode
from lfpose_edge.errors import AccuracyGateError, BundleError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.checkpoint import save_checkpoint
from lfpose_edge.train.evaluate import decode_facts
from lfpose_edge.train.networks import BACKBONES, CamNetwork, build_network
from lfpose_edge.train.recipe import Network, parse_recipe

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "skeleton": "lsp14",
    "data": {part: {"annotations": "a.json", "images": "i"} for part in ("train", "val")},
    "network": {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [32, 24, 16, 16]},
    "stages": [{"epochs": 1, "size": [64, 96]}],
}


def _trained_like(network: torch.nn.Module) -> None:
    """BatchNorm statistics and CAM weights as far from their start as a training takes them."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def write_checkpoint(path: Path) -> Path:
    torch.manual_seed(0)
    recipe = parse_recipe(RECIPE, where="test")
    network = build_network(recipe.network, LSP14)
    _trained_like(network)
    save_checkpoint(path, {"recipe": recipe.model_dump(mode="json"), "ema": network.state_dict(), "step": 5})
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "last.pt")


def _network(checkpoint: Path) -> CamNetwork:
    network = build_network(parse_recipe(RECIPE, where="test").network, LSP14)
    network.load_state_dict(torch.load(checkpoint, weights_only=True)["ema"])
    return network.eval()


def test_the_bundle_computes_what_the_network_computes(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "bundle")
    backend = load_backend(bundle, "onnxruntime", Request())
    network = _network(checkpoint)
    for batch in (1, 2, 5):
        crops = torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = network(crops)
        cams, presence = backend.infer(crops.numpy())
        assert cams.shape == (batch, 14, 16, 24)
        np.testing.assert_allclose(cams, expected.cams.numpy(), atol=0.02)
        np.testing.assert_allclose(presence, expected.presence.numpy(), atol=0.02)
    assert bundle.manifest.decode.cam_stride == 4
    assert bundle.skeleton.name == "lsp14"


def test_a_bundle_is_decoded_as_its_network_was_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = {**RECIPE, "network": {**RECIPE["network"], "widths": [16, 16, 16]}}
    recipe = parse_recipe(coarse, where="test")
    network = build_network(recipe.network, LSP14)
    checkpoint = tmp_path / "last.pt"
    state = {"recipe": recipe.model_dump(mode="json"), "ema": network.state_dict(), "step": 5}
    save_checkpoint(checkpoint, state)
    monkeypatch.setattr(source, "to_onnx", lambda *_: None)
    facts = source.open_source(str(checkpoint)).facts["decode"]
    assert (facts["cam_stride"], facts["upsample"], facts["method"]) == (8, 8, "dark")
    assert Decode.model_validate(facts) == decode_facts(network)


PLAIN: dict[str, Any] = {"widths": (16, 16, 16, 16)}
SMALL_CONTEXT = {"widths": (16, 16, 16), "context": {"width": 16, "layers": 1}}
PARTS = {
    "refined and smoothed": (
        {**PLAIN, "refine": True, "smooth_cells": 2.0},
        {"smoothing.across", "smoothing.down"},
    ),
    "with context": (SMALL_CONTEXT, {"cam_head"}),
    "read twice": ({**PLAIN, "erase": 0.5}, {"cam_head", "erasing_head.cam_head"}),
    "with prototypes": (
        {**SMALL_CONTEXT, "prototypes": {"layers": 1}, "smooth_cells": 2.0},
        {
            "prototypes.feature_projection",
            "prototypes.prototype_projection",
            "smoothing.across",
            "smoothing.down",
        },
    ),
}


@pytest.mark.parametrize(
    ("name", "options", "last_layers"),
    [pytest.param(name, PLAIN, {"cam_head"}, id=name) for name in BACKBONES]
    + [pytest.param("efficientnet_lite0", *part, id=what) for what, part in PARTS.items()],
)
def test_every_network_exports(name: str, options: dict[str, Any], last_layers: set[str]) -> None:
    torch.manual_seed(0)
    recipe = Network.model_validate({"backbone": name, **options})
    network = CamNetwork(recipe, LSP14).eval()
    model = to_onnx(network, (64, 64))
    onnx.checker.check_model(model)
    assert [o.version for o in model.opset_import if o.domain == ""] == [17]
    assert set(tail_layers(Graph(model))) == {*last_layers, "presence_head"}
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert "Pad" not in operators
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    crops = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = network(crops)
    cams, presence = session.run(("cams", "presence"), {"crops": crops.numpy()})
    np.testing.assert_allclose(cams, expected.cams.numpy(), atol=0.05)
    np.testing.assert_allclose(presence, expected.presence.numpy(), atol=0.05)


def test_a_recipe_with_absolute_paths_does_not_tell_them(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["recipe"]["start_from"] = str(tmp_path / "secret" / "last.pt")
    state["origin"] = {"checkpoint": "last.pt"}
    save_checkpoint(tmp_path / "moved.pt", state)
    bundle = export_bundle(tmp_path / "moved.pt", tmp_path / "bundle")
    assert bundle.manifest.provenance["recipe"]["start_from"] == "last.pt"
    assert bundle.manifest.provenance["started_from"] == {"checkpoint": "last.pt"}
    assert "secret" not in (bundle.path / "manifest.json").read_text(encoding="utf-8")


def test_an_export_is_reproducible_small_and_names_no_machine(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "about.md").write_text("# about\n")
    for name in "ab":
        bundle = export_bundle(checkpoint, tmp_path / name, card=tmp_path / "about.md")
        assert (bundle.path / "card.md").read_text(encoding="utf-8") == "# about\n"
        parameters = sum(p.numel() for p in _network(checkpoint).parameters())
        assert bundle.manifest.files["model.onnx"].bytes < 2.3 * parameters  # stored as float16
    for file in ("model.onnx", "manifest.json"):
        a, b = ((tmp_path / name / file).read_bytes() for name in "ab")
        assert a == b
        assert str(Path(__file__).parent.parent).encode() not in a


def test_a_wrong_graph_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: CamNetwork, size: tuple[int, int]) -> onnx.ModelProto:
        torch.nn.init.normal_(network.cam_head.weight)
        model = to_onnx(network, size)
        torch.nn.init.zeros_(network.cam_head.weight)
        return model

    monkeypatch.setattr(source, "to_onnx", wrong)
    with pytest.raises(AccuracyGateError, match="nothing was written"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_an_existing_folder_is_not_touched(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="exists"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_a_checkpoint_of_another_network_is_named(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["recipe"]["network"]["backbone"] = "resnet18"
    torch.save(state, checkpoint)
    with pytest.raises(BundleError, match="does not hold the network"):
        export_bundle(checkpoint, tmp_path / "bundle")
