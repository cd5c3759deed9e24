"""EFASNet's way from pictures of people to an INT8 bundle and an engine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lfpose_edge.export import cli, report

from lfpose_edge.bundle import Bundle
from lfpose_edge.train import loop
from lfpose_edge.train.checkpoint import load_checkpoint
from lfpose_edge.train.recipe import Recipe, load_recipe

MODULES = {"aggregate": {"scales": 4}, "decode": {"upsample": "duc_separable", "fusion": "add"}}
PEOPLE, SIZE = 32, 64
AGAIN = (
    5  # times in an epoch that everybody is seen: every epoch ends with a checkpoint, which takes a second
)


@pytest.fixture(scope="module")
def real_people(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ``people.json``, 32 of Leeds Sports Pose Extended, and ``others.json``, 32 others.

    In ``again.json`` each of the people is AGAIN times.
    """
    lspet = shared_data / "data" / "lspet"
    tree = json.loads((lspet / "train.json").read_text(encoding="utf-8"))
    root = tmp_path_factory.mktemp("people")
    for name, first in (("people", 0), ("others", 125)):
        persons = tree["annotations"][first::250][:PEOPLE]
        shown = {person["image_id"] for person in persons}
        images = [image for image in tree["images"] if image["id"] in shown]
        part = {**tree, "annotations": persons, "images": images}
        (root / f"{name}.json").write_text(json.dumps(part))
        if name == "people":
            repeated = [{**person, "id": number} for number, person in enumerate(persons * AGAIN, 1)]
            (root / "again.json").write_text(json.dumps({**part, "annotations": repeated}))
    (root / "images").symlink_to(lspet / "images")
    return root


def _learn_by_heart(recipe: str, epochs: int, rate: float, root: Path, out: Path, *changes: str) -> loop.Run:
    """Train on these people alone, always as they are."""
    rates = f"lr_head: {rate}, lr_backbone: {rate}"
    again, people = (f"{{annotations: {name}.json, images: images}}" for name in ("again", "people"))
    plan = load_recipe(
        recipe,
        [
            f"data={{train: {again}, val: {people}, workers: 0}}",
            f"stages=[{{epochs: {epochs}, size: [{SIZE}, {SIZE}]}}]",
            "augment={rotation_deg: 0, scale: 0, shift: 0, flip: 0, color: 0, cutout: 0}",
            "loss={sigma_cells: 1.0}",
            "network.smooth_cells=1.0",
            f"optimizer={{batch_size: 8, {rates}, warmup_steps: 5, ema_decay: 0.9}}",
            "precision=32-true",
            *changes,
        ],
    )
    return loop.train(plan, data_root=root, out=out, accelerator="cpu", validate_every=epochs)


@pytest.fixture(scope="module")
def overfitted(real_people: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Run:
    """The edge form with all three modules."""
    out = tmp_path_factory.mktemp("overfitted")
    fasm = "network.aggregate={scales: 4, ratio: 1, select: true}"
    return _learn_by_heart(
        "efasnet_edge", 6, 0.006, real_people, out, fasm, "network.decode.upsample=duc_separable"
    )


def test_it_learns_32_people_by_heart(overfitted: loop.Run) -> None:
    assert overfitted.history[-1]["val_pck"] >= 0.95


def test_the_papers_form_learns_them_too(real_people: Path, tmp_path: Path) -> None:
    """ResNet-50 and all three modules, from no weights at all."""
    run = _learn_by_heart("efasnet_r50", 4, 0.002, real_people, tmp_path, "network.pretrained=false")
    assert run.history[-1]["val_pck"] >= 0.95


def test_it_is_quantised_and_built_as_any_other_network(
    overfitted: loop.Run,
    real_people: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proven on the people it knows, by ranges of others: the engine has an operator for DUC."""
    monkeypatch.setattr(report, "_latency", lambda *_: [])  # which takes seconds
    has_rtx = importlib.util.find_spec("tensorrt_rtx") is not None
    engine = ("--engine", "tensorrt-rtx", "--gpu", "SM86") if has_rtx else ()
    others = real_people / "others.json"
    data = ("--data", real_people, "--proof", "people.json", "--proof-images", "images")
    calib = ("--int8", "--calib", others, "--ranges", "minmax", "--max-drop", "3")
    code, _, err = command(
        cli.main, "lfpose-export", overfitted.checkpoint, "--out", "efas8", *calib, *data, *engine
    )
    assert code == 0, err
    bundle = Bundle.open(tmp_path / "efas8")
    for precision in ("fp32", "int8-cpu", "int8-trt"):
        operators = [node.op_type for node in onnx.load(bundle.model_file(precision)).graph.node]
        assert operators.count("DepthToSpace") == 3, precision
    found = json.loads((bundle.path / "report.json").read_text(encoding="utf-8"))
    assert found["precisions"][0]["pck_points"] >= 95
    assert len(list((bundle.path / "engines").glob("*.engine"))) == (2 if has_rtx else 0)


def test_a_stopped_training_goes_on_to_the_same_weights(
    figures: Path,
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    network = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16, 16], **MODULES}
    recipe = make_recipe(network=network)

    def run(out: str) -> loop.Run:
        return loop.train(recipe, data_root=figures, out=tmp_path / out, accelerator="cpu", validate_every=9)

    assert run("whole").finished
    stop_after(4)
    assert not run("broken").finished
    assert run("broken").finished
    ours, theirs = (_weights(tmp_path / out / "last.pt") for out in ("whole", "broken"))
    assert [name for name, values in ours.items() if not torch.equal(values, theirs[name])] == []


def _weights(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    weights: Mapping[str, torch.Tensor] = load_checkpoint(checkpoint)["network"]
    return weights
