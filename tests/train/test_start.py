"""A training that starts from a bundle starts from what the bundle computes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lfpose_edge.export import export_bundle

from lfpose_edge.backends import Request, load_backend
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError, LFPoseError, RecipeError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.checkpoint import load_checkpoint, save_checkpoint
from lfpose_edge.train.loop import Run, train
from lfpose_edge.train.networks import CamNetwork, build_network
from lfpose_edge.train.recipe import Recipe, parse_recipe
from lfpose_edge.train.start import start_from, with_network_of_source

MakeRecipe = Callable[..., Recipe]
BundleOf = Callable[[Recipe], Path]
SMALL = [32, 24, 16, 16]
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"backbone": "efficientnet_lite0", "widths": SMALL},
    "refined and smoothed": {
        "backbone": "efficientnet_lite0",
        "widths": SMALL,
        "refine": True,
        "smooth_cells": 1.5,
    },
    "erased and smoothed": {
        "backbone": "efficientnet_lite0",
        "widths": SMALL,
        "erase": 0.7,
        "smooth_cells": 1.5,
    },
    "with frozen stages": {"backbone": "efficientnet_lite0", "widths": SMALL, "freeze_stages": 2},
    "resnet": {"backbone": "resnet18", "widths": SMALL},
}


def _some_training_later(network: CamNetwork) -> None:
    """Weights and statistics as far from their start as a training takes them."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, middle in ((module.running_mean, 0.0), (module.bias, 0.0), (module.running_var, 1.0)):
                values.data.normal_(middle, 0.1, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    network.presence_head.bias.data.normal_(generator=generator)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """The bundle of a recipe's network, exported once."""
    made: dict[str, Path] = {}

    def find(recipe: Recipe) -> Path:
        key = recipe.network.model_dump_json(exclude={"freeze_stages"})  # which no file shows
        if key not in made:
            made[key] = _write_bundle(recipe, tmp_path_factory.mktemp("exported"))
        return made[key]

    return find


def _write_bundle(recipe: Recipe, folder: Path) -> Path:
    torch.manual_seed(0)
    network = build_network(recipe.network, recipe.joints, pretrained=False)
    _some_training_later(network)
    state = {"recipe": recipe.model_dump(mode="json"), "ema": network.state_dict(), "step": 5}
    save_checkpoint(folder / "first.pt", state)
    return export_bundle(folder / "first.pt", folder / "bundle").path


def _crops(count: int, seed: int) -> torch.Tensor:
    """Noise that neighbours share, as pictures have it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("network", [pytest.param(n, id=name) for name, n in NETWORKS.items()])
def test_the_network_computes_what_the_bundle_computes(
    network: dict[str, Any], make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    recipe = make_recipe(network={**network, "pretrained": False}, start_from="first.pt")
    bundle = bundle_of(recipe)
    ours = build_network(recipe.network, recipe.joints, pretrained=False)
    looked_at = _crops(8, seed=3)
    origin = start_from(bundle, ours, recipe, [looked_at[:5], looked_at[5:]])
    assert (origin["bundle"], origin["version"], len(origin["sha256"])) == ("figures", "1", 64)

    ours.eval()
    crops = ours.normalize(_crops(3, seed=4))
    with torch.no_grad():
        cams, presence, *_ = ours(crops)
    theirs = load_backend(Bundle.open(bundle), "onnxruntime", Request()).infer(crops.contiguous().numpy())
    np.testing.assert_allclose(cams.numpy(), theirs[0], atol=2e-3 * np.abs(theirs[0]).max())
    np.testing.assert_allclose(presence.numpy(), theirs[1], atol=2e-3 * np.abs(theirs[1]).max())


@pytest.mark.parametrize("network", [pytest.param(n, id=name) for name, n in NETWORKS.items()])
def test_batch_norms_are_as_training_on_the_crops_leaves_them(
    network: dict[str, Any], make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    recipe = make_recipe(network={**network, "pretrained": False}, start_from="first.pt")
    ours = build_network(recipe.network, recipe.joints, pretrained=False)
    crops = _crops(8, seed=3)
    start_from(bundle_of(recipe), ours, recipe, [crops])
    norms = [m for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for convolution in (m for m in ours.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is None):
        norm = convolution.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(norm, torch.ones_like(norm), atol=1e-4, rtol=0)
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        ours.train()(ours.normalize(crops))
    for norm, (mean, variance) in zip(norms, before, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, atol=2e-3, rtol=1e-2)
        torch.testing.assert_close(norm.running_var, variance, atol=2e-3, rtol=5e-2)


def test_a_training_starts_from_a_bundle_and_goes_on_after_a_stop(
    figures: Path,
    make_recipe: MakeRecipe,
    bundle_of: BundleOf,
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    plain = {**NETWORKS["plain"], "pretrained": False}
    recipe = make_recipe(network=plain, start_from=str(bundle_of(make_recipe(network=plain))))

    def run(out: str) -> dict[str, Any]:
        train(recipe, data_root=figures, out=tmp_path / out, accelerator="cpu", validate_every=100)
        return load_checkpoint(tmp_path / out / "last.pt")

    whole = run("whole")
    stop_after(4)
    assert run("broken")["step"] == 4
    resumed = run("broken")
    assert whole["origin"] == resumed["origin"]
    assert whole["origin"]["bundle"] == "figures"
    different = [k for k, v in whole["ema"].items() if not torch.equal(v, resumed["ema"][k])]
    assert different == []
    # The bundle, not another random start: its first filters are still nearly there.
    start = build_network(recipe.network, recipe.joints, pretrained=False)
    crops = _crops(4, seed=3)
    start_from(Path(str(recipe.start_from)), start, recipe, [crops])
    torch.testing.assert_close(
        whole["network"]["backbone.stem.0.0.weight"], start.backbone.stem[0][0].weight, atol=0.02, rtol=0
    )


@pytest.mark.parametrize("source", ["bundle", "checkpoint"])
def test_without_a_network_a_recipe_trains_the_one_that_it_starts_from(
    source: str,
    figures: Path,
    make_recipe: MakeRecipe,
    bundle_of: BundleOf,
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    bundle = bundle_of(make_recipe(network={**NETWORKS["plain"], "pretrained": False}))
    start = {"bundle": bundle, "checkpoint": bundle.parent / "first.pt"}[source]
    tree = make_recipe(start_from=str(start)).model_dump(mode="json", exclude={"network"})
    recipe = parse_recipe(tree, where="test")
    assert list(recipe.network.widths) != SMALL
    stop_after(2)
    for finished in (False, True):
        run = train(recipe, data_root=figures, out=tmp_path, accelerator="cpu", validate_every=100)
        assert run.finished == finished
    network = load_checkpoint(tmp_path / "last.pt")["recipe"]["network"]
    assert (network["widths"], network["pretrained"]) == (SMALL, False)


def test_a_model_that_does_not_say_its_network_is_none_to_start_from(
    make_recipe: MakeRecipe, bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = shutil.copytree(
        bundle_of(make_recipe(network={**NETWORKS["plain"], "pretrained": False})), tmp_path / "b"
    )
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "provenance": {}}), encoding="utf-8")
    tree = make_recipe(start_from=str(bundle)).model_dump(mode="json", exclude={"network"})
    with pytest.raises(BundleError, match="does not say which network it is: give the recipe its network"):
        with_network_of_source(parse_recipe(tree, where="test"), tmp_path / "last.pt")


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another width": (
        {"network": {"pretrained": False, "widths": [16, 24, 16, 16]}},
        r"layer decoder\.top\.0\.0 has weights \(16, 320, 1, 1\), and the file holds \(32, 320, 1, 1\)",
    ),
    "another backbone": (
        {"network": {"backbone": "resnet18", "pretrained": False, "widths": SMALL}},
        "subtracts",
    ),
    "more layers": (
        {"network": {"pretrained": False, "widths": SMALL, "refine": True}},
        r"layer decoder\.refiner\..* and the file has no such layer",
    ),
    "fewer layers": (
        {"network": {"pretrained": False, "widths": SMALL[:3]}},
        r"layer cam_head has weights|the recipe lacks layer decoder",
    ),
}


@pytest.mark.parametrize(("changes", "words"), OTHERS.values(), ids=OTHERS)
def test_another_network_is_refused(
    changes: dict[str, Any], words: str, make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    bundle = bundle_of(make_recipe(network={**NETWORKS["plain"], "pretrained": False}))
    recipe = make_recipe(**changes)
    network = build_network(recipe.network, LSP14, pretrained=False)
    with pytest.raises(BundleError, match=words):
        start_from(bundle, network, recipe, [])


def test_layers_that_an_onnx_file_does_not_name_are_refused(
    make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    context = {"pretrained": False, "widths": [16, 16, 16], "context": {"width": 16, "layers": 1}}
    recipe = make_recipe(network=context)
    bundle = bundle_of(recipe)
    with pytest.raises(BundleError, match=r"layer context\.|start from the checkpoint"):
        start_from(bundle, build_network(recipe.network, LSP14, pretrained=False), recipe, [])


def test_other_joints_and_missing_bundles_are_named(
    make_recipe: MakeRecipe, bundle_of: BundleOf, tmp_path: Path
) -> None:
    recipe = make_recipe(network={**NETWORKS["plain"], "pretrained": False})
    bundle = bundle_of(recipe)
    crowd = make_recipe(network=recipe.network.model_dump(), skeleton="crowdpose14")  # as many joints
    network = build_network(crowd.network, crowd.joints, pretrained=False)
    for source in (bundle, bundle.with_name("first.pt")):
        with pytest.raises(BundleError, match=r"finds the joints right_ankle, .* crowdpose14's"):
            start_from(source, network, crowd, [])
    with pytest.raises(BundleError, match="lfpose-light"):
        start_from(Path("lfpose-light"), network, recipe, [])
    with pytest.raises(BundleError, match="no checkpoint at"):
        start_from(tmp_path / "nowhere.pt", network, recipe, [])
    (tmp_path / "weights.ckpt").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"weights\.ckpt is damaged or not a checkpoint"):
        start_from(tmp_path / "weights.ckpt", network, recipe, [])


@pytest.mark.parametrize(
    ("network", "smooth_cells"),
    [("refined and smoothed", 0.0), ("plain", 1.5)],
    ids=["bundle smooths", "recipe smooths"],
)
def test_smoothing_is_the_recipes_choice(
    network: str, smooth_cells: float, make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    given = {**NETWORKS[network], "pretrained": False}
    theirs, ours = (make_recipe(network=n) for n in (given, {**given, "smooth_cells": smooth_cells}))
    changed = build_network(ours.network, LSP14, pretrained=False)
    start_from(bundle_of(theirs), changed, ours, [_crops(4, seed=3)])
    same = build_network(theirs.network, LSP14, pretrained=False)
    start_from(bundle_of(theirs), same, theirs, [_crops(4, seed=3)])
    torch.testing.assert_close(changed.cam_head.bias, same.cam_head.bias)
    assert changed.cam_head.bias.mean() < -3  # where a head starts, about; 10 higher or lower is a wrong lift


def test_a_training_without_locations_does_not_start_from_one_with(
    make_recipe: MakeRecipe, bundle_of: BundleOf
) -> None:
    plain = {**NETWORKS["plain"], "pretrained": False}
    bundle = bundle_of(make_recipe(network=plain))
    data = {"tags": {"sheet": "s.csv", "images": "i"}, "val": {"annotations": "a.json", "images": "i"}}
    with pytest.raises(RecipeError, match="is a bundle, which may have been trained on locations"):
        make_recipe(network=plain, data=data, start_from=str(bundle))
    recipe = make_recipe(network=plain, data=data, start_from=str(bundle.with_name("first.pt")))
    network = build_network(recipe.network, LSP14, pretrained=False)
    with pytest.raises(RecipeError, match="was trained on locations, and this recipe uses none"):
        start_from(Path(str(recipe.start_from)), network, recipe, [])


def test_a_bundle_needs_onnx(
    make_recipe: MakeRecipe, bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(network={**NETWORKS["plain"], "pretrained": False})
    bundle = bundle_of(recipe)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match="pip install onnx"):
        start_from(bundle, build_network(recipe.network, LSP14, pretrained=False), recipe, [])


def _trained(recipe: Recipe, root: Path, out: Path) -> Run:
    return train(recipe, data_root=root, out=out, accelerator="cpu", validate_every=100)


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    one = [{"epochs": 1, "size": [64, 64]}]
    start = tmp_path / "start.pt"
    for seed in (0, 1):
        _trained(make_recipe(stages=one, seed=seed), figures, tmp_path / str(seed))
    shutil.copy(tmp_path / "0" / "last.pt", start)
    recipe = make_recipe(stages=one, start_from=str(start))
    _trained(recipe, figures, tmp_path / "run")
    assert _trained(recipe, figures, tmp_path / "run").steps == 0
    shutil.copy(tmp_path / "1" / "last.pt", start)
    with pytest.raises(LFPoseError, match=r"last\.pt began from what .*start\.pt held then"):
        _trained(recipe, figures, tmp_path / "run")
    start.unlink()  # what is gone cannot be compared
    assert _trained(recipe, figures, tmp_path / "run").steps == 0
