"""Trainings that adapt: what they read, that nothing of the adaptation is exported, and that they resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lfpose_edge.export.to_onnx import to_onnx

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import RecipeError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train import loop
from lfpose_edge.train.adapt import adaptation_recipe, with_statistics_of
from lfpose_edge.train.checkpoint import load_checkpoint
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.networks.cam_network import CamNetwork
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.start import trained_network

MakeRecipe = Callable[..., Recipe]
WHOLE = {"topology": 0.1, "features": 0.05}
NETWORK = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]}


def _data(**changes: Any) -> dict[str, Any]:
    sets = {
        part: {"annotations": f"{part}/annotations.json", "images": f"{part}/images"}
        for part in ("train", "val")
    }
    return {**sets, "target": sets["val"], "workers": 0, **changes}


def test_a_stopped_adaptation_goes_on_to_the_same_weights(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    target = {**_data()["target"], "locations": 0.4}
    judges = {"nodes": 0.05, "graphs": 0.05}
    weights = {**WHOLE, **judges, "structure": 0.1, "statistics": "target", "appearance": 0.5}
    recipe = make_recipe(data=_data(target=target), network=NETWORK, adapt=weights, loss={"teacher": 0.1})

    def run(out: str) -> loop.Run:
        return loop.train(recipe, data_root=figures, out=tmp_path / out, accelerator="cpu", validate_every=9)

    whole = run("whole")
    stop_after(4)
    assert not run("broken").finished
    assert run("broken").finished
    ours, theirs = (load_checkpoint(tmp_path / out / "last.pt") for out in ("whole", "broken"))
    for part in ("network", "ema", "bridge"):
        tensors = {k: v for k, v in ours[part].items() if isinstance(v, torch.Tensor)}
        assert [k for k, v in tensors.items() if not torch.equal(v, theirs[part][k])] == []
    assert ours["bridge"]["source_relations"].any()
    assert ours["bridge"]["memory.seen"].any()
    # What is exported is the network alone, and it is the same network as without an adaptation.
    plain = build_network(make_recipe(network=NETWORK).network, LSP14)
    assert list(plain.state_dict()) == list(whole.network.state_dict()) == list(ours["ema"])
    with torch.no_grad():
        assert whole.network.eval()(torch.zeros(1, 3, 64, 64)).features is None
    for values in plain.state_dict().values():  # no two alike, which a file would hold once
        values.copy_(torch.rand(values.shape) + 0.5)
    ours, theirs = (_without_weights(to_onnx(n, (64, 64))) for n in (whole.network, plain))
    assert ours == theirs


def test_the_teacher_sees_the_target_by_its_own_statistics_from_the_start(
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(out: str, **changes: Any) -> CamNetwork:
        recipe = make_recipe(network=NETWORK, stages=[{"epochs": 1, "size": [64, 64]}], **changes)
        loop.train(recipe, data_root=figures, out=tmp_path / out, accelerator="cpu", validate_every=9)
        return trained_network(tmp_path / out / "last.pt")[0]

    def values(network: CamNetwork) -> dict[str, torch.Tensor]:
        return {k: v for k, v in network.state_dict().items() if v.is_floating_point()}

    source = run("source")
    start = str(tmp_path / "source" / "last.pt")
    monkeypatch.setattr(loop, "average_decay", lambda *_, **__: 1 - 1e-9)  # it stays as at first
    target = read_coco_keypoints(figures / "val" / "annotations.json", figures / "val" / "images", LSP14)
    starts = {"target": with_statistics_of(source, target, (64, 64), 1.25), "both": source}
    for statistics, expected in starts.items():
        adapt = {"topology": 0.1, "statistics": statistics}
        teacher = run(statistics, data=_data(), start_from=start, adapt=adapt)
        torch.testing.assert_close(values(teacher), values(expected), atol=1e-3, rtol=1e-3)
    assert "start_from" not in caplog.text


def _without_weights(model: onnx.ModelProto) -> onnx.GraphProto:
    """Operators, names, shapes: all that says what a network costs."""
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.graph


def test_an_adaptation_needs_two_domains(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="adapt needs two domains"):
        make_recipe(adapt=WHOLE)
    with pytest.raises(RecipeError, match="unknown entry 'adapt.topolgy'; did you mean 'topology'"):
        make_recipe(data=_data(), adapt={"topolgy": 1})
    for located in (0.0, 1.0):
        target = {**_data()["target"], "locations": located}
        with pytest.raises(RecipeError, match="adapt.structure draws the target's persons to some of them"):
            make_recipe(data=_data(target=target), adapt={"structure": 1})


def test_no_location_of_the_target_is_read(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its joints may be anything, or nothing: the weights are the same."""
    file = figures / "val/annotations.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    for person in tree["annotations"]:
        person["keypoints"] = [7] * 42
    (tmp_path / "target.json").write_text(json.dumps(tree))
    weights = []
    for path in (file, tmp_path / "target.json"):
        target = {"annotations": str(path), "images": "val/images"}
        recipe = make_recipe(data=_data(target=target), network=NETWORK, adapt=WHOLE)
        run = loop.train(
            recipe, data_root=figures, out=tmp_path / path.stem, accelerator="cpu", validate_every=9
        )
        weights.append(run.network.state_dict())
    assert caplog.text.count("adapt without start_from: the network knows nothing of the source yet") == 2
    assert [k for k, v in weights[0].items() if not torch.equal(v, weights[1][k])] == []


def test_an_adaptation_begins_where_the_model_was_trained_to_and_frees_all_of_it(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    frozen = {**NETWORK, "freeze_stages": 2, "pretrained": True}
    source = make_recipe(network=frozen, augment={"intruder": 0.5, "crowd": 0.5})
    plan = adaptation_recipe(source, tmp_path / "last.pt", tmp_path / "target.json", tmp_path, 3)
    assert (plan.network.freeze_stages, plan.network.pretrained) == (0, False)
    assert plan.start_from == tmp_path / "last.pt"
    assert plan.optimizer.lr_head == pytest.approx(0.4 * source.optimizer.lr_head)
    assert (plan.loss.teacher, plan.loss.teacher_maps) == (1.0, 0.6)
    assert (plan.augment.intruder, plan.augment.crowd) == (0.0, 0.0)  # which only located persons have
    assert not plan.loss.teacher_turns
