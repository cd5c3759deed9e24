"""The people that a recipe trains on: a target's few located ones, and the names of each set's joints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfpose_edge.errors import RecipeError, SourceError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.appearance import Appearance
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.data.tagged_crops import TaggedCrops
from lfpose_edge.train.recipe import Augment, Recipe
from lfpose_edge.train.training_set import make_training_set, read_persons

MakeRecipe = Callable[..., Recipe]
VAL = {"annotations": "val/annotations.json", "images": "val/images"}
TRAIN = {"annotations": "train/annotations.json", "images": "train/images"}


def _data(**changes: Any) -> dict[str, Any]:
    return {"train": TRAIN, "target": VAL, "val": VAL, "workers": 0, **changes}


def test_a_targets_located_few_are_drawn_once(figures: Path, make_recipe: MakeRecipe) -> None:
    """24 people of the source and 8 of the target, 2 of them located: both kinds are seen often enough."""
    recipe = make_recipe(data=_data(target={**VAL, "locations": 0.25}), adapt={})
    mixture, split = make_training_set(recipe, figures)
    kinds = [(type(part), part.of_target, len(part)) for part in mixture.parts]
    assert kinds == [(PersonCrops, False, 24), (TaggedCrops, True, 6), (PersonCrops, True, 2)]
    assert mixture.lengths == [24, 18, 6]
    assert [part["annotations"] for part in split] == [VAL["annotations"]]
    (located,) = (part["located"] for part in split)
    assert located == mixture.parts[2].persons.annotation_ids.tolist()
    assert sorted([*located, *mixture.parts[1].tags.persons.tolist()]) == list(range(8))
    assert make_training_set(recipe, figures)[1] == split
    others = [
        make_training_set(make_recipe(data=recipe.data.model_dump(), adapt={}, seed=seed), figures)[1]
        for seed in range(1, 4)
    ]
    assert split not in others
    of_target = [part.with_view(size=(64, 64))[0].of_target.item() for part in mixture.parts]
    assert of_target == [part.of_target for part in mixture.parts]


@pytest.mark.parametrize("adapt", [{}, None], ids=["adapted to", "trained on"])
def test_a_target_that_is_located_whole_leaves_nobody(
    adapt: dict[str, Any] | None, figures: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(data=_data(target={**VAL, "locations": 1.0}), adapt=adapt)
    mixture, split = make_training_set(recipe, figures)
    assert [len(part) for part in mixture.parts] == [24, 8]
    assert mixture.lengths == [24, 24]
    assert split == []


@pytest.mark.parametrize("locations", [0.0, 0.01, 0.25, 1.0])
def test_an_epoch_is_as_long_whoever_is_located(
    locations: float, figures: Path, make_recipe: MakeRecipe
) -> None:
    """The same number of steps, in full batches, and of the target as many crops as of the source."""
    recipe = make_recipe(data=_data(target={**VAL, "locations": locations}), adapt={})
    mixture, _ = make_training_set(recipe, figures)
    batches = mixture.with_view(seed=(0, 0)).epoch_batches(6, (0, 0))
    assert [len(batch) for batch in batches] == [6] * 8
    of_target = [mixture.with_view(size=(32, 32))[i].of_target.item() for batch in batches for i in batch]
    assert sum(of_target) == 24


def test_a_batch_is_of_one_camera(figures: Path, make_recipe: MakeRecipe) -> None:
    """All of a source's batch is shown in the target's appearance, or nothing of it; the target never is."""
    recipe = make_recipe(data=_data(target=VAL), adapt={})
    spectrum = np.ones((3, 64, 33))
    grey = Appearance(np.full((3, 256), 200.0), spectrum, 0 * spectrum, chance=0.5)
    still = Augment(color=0, cutout=0)
    crops = make_training_set(recipe, figures)[0].with_view(size=(32, 32), augment=still, appearance=grey)
    shown = {False: [], True: []}
    for batch in crops.with_view(seed=(0, 0)).epoch_batches(2, (0, 0)):
        samples = crops.__getitems__(batch)
        is_grey = [bool((sample.crop == 200).float().mean() > 0.5) for sample in samples]
        assert len(set(is_grey)) == 1
        shown[samples[0].of_target.item()].append(is_grey[0])
    assert set(shown[False]) == {False, True}
    assert set(shown[True]) == {False}


def test_persons_seen_again_are_seen_in_other_views_and_equally_often(
    figures: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe()
    persons = read_persons(recipe.data.val, recipe, figures)
    view = CropView((32, 32), 1.25, recipe.augment)
    mixture = CropMixture([PersonCrops(persons, view)], [20])
    seen = [i for batch in mixture.epoch_batches(5, (3, 1)) for i in batch]
    counts = np.bincount([i % 8 for i in seen], minlength=8)
    assert sorted(counts.tolist()) == [2] * 4 + [3] * 4
    assert not torch.equal(mixture[1].crop, mixture[9].crop)
    torch.testing.assert_close(mixture[1].labelled.sum(), mixture[9].labelled.sum(), atol=3, rtol=0)
    two = CropMixture([PersonCrops(persons, view), PersonCrops(persons, view, of_target=True)], [20, 11])
    parts = [two[i].of_target.item() for batch in two.epoch_batches(40, (3, 1)) for i in batch]
    assert sorted(parts) == [False] * 20 + [True] * 11
    fewer = CropMixture([PersonCrops(persons, view)], [5])
    drawn = [fewer.epoch_batches(5, (3, epoch))[0] for epoch in range(30)]
    assert {len(set(batch)) for batch in drawn} == {5}
    assert set().union(*drawn) == set(range(8))


def test_a_recipe_says_whose_joint_is_called_what(figures: Path, make_recipe: MakeRecipe) -> None:
    plain = make_recipe()
    joints = plain.joints
    named = make_recipe(data=_data(val={**VAL, "joints": {"neck": "head_top", "left_wrist": None}}))
    before, after = (read_persons(recipe.data.val, recipe, figures) for recipe in (plain, named))
    neck, head, wrist = (joints.index(name) for name in ("neck", "head_top", "left_wrist"))
    np.testing.assert_array_equal(after.joints[:, neck], before.joints[:, head])
    np.testing.assert_array_equal(after.joints[:, head], before.joints[:, head])
    assert not after.labelled[:, wrist].any()
    assert before.labelled[:, wrist].any()


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        ({"neck": "torax"}, "has no joint 'torax' to be neck"),
        (dict.fromkeys(LSP14.keypoints), "none of its joints .* is in skeleton 'lsp14'"),
    ],
)
def test_a_targets_joints_are_checked_though_none_is_read(
    joints: dict[str, str | None], words: str, figures: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(data=_data(target={**VAL, "joints": joints}), adapt={})
    with pytest.raises(SourceError, match=words):
        make_training_set(recipe, figures)


def test_joints_that_are_not_there_are_named(figures: Path, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="joint 'nek', which lsp14 lacks; did you mean 'neck'"):
        make_recipe(data=_data(val={**VAL, "joints": {"nek": "neck"}}))
    recipe = make_recipe(data=_data(val={**VAL, "joints": {"neck": "torax"}}))
    with pytest.raises(SourceError, match="has no joint 'torax' to be neck"):
        read_persons(recipe.data.val, recipe, figures)
    nothing = dict.fromkeys(recipe.joints.keypoints)
    recipe = make_recipe(data=_data(val={**VAL, "joints": nothing}))
    with pytest.raises(SourceError, match="none of its joints .* is in skeleton 'lsp14'"):
        read_persons(recipe.data.val, recipe, figures)
