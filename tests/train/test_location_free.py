"""Training on tags: it learns where joints are, and no location can reach it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import LFPoseError, RecipeError, SourceError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train import loop
from lfpose_edge.train.checkpoint import load_checkpoint
from lfpose_edge.train.data.crops import CropView, PersonCrops, Sample
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.data.tagged_crops import TaggedCrops, TagSample
from lfpose_edge.train.data.tags import make_questions, simulate_answers, write_tags
from lfpose_edge.train.loop import train
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.training_set import make_training_set

MakeRecipe = Callable[..., Recipe]
SETS = {
    "train": {"annotations": "train/annotations.json", "images": "train/images"},
    "val": {"annotations": "val/annotations.json", "images": "val/images"},
    "tags": {"sheet": "tags.csv", "images": "train/images"},
    "workers": 0,
}
TAGS_ONLY = {**SETS, "locations": 0}
WHOLE_METHOD: dict[str, Any] = {
    "network": {
        "backbone": "efficientnet_lite0",
        "pretrained": False,
        "widths": [16, 16, 16],
        "context": {"width": 16, "layers": 1},
        "prototypes": {"layers": 1},
    },
    "loss": {
        name: 0.1
        for name in ("agreement", "contrast", "concentration", "equivariance", "teacher", "teacher_sure")
    },
}


@pytest.fixture
def root(figures: Path, tmp_path: Path) -> Path:
    """A copy of the figures, with ten answered regions each."""
    root = Path(shutil.copytree(figures, tmp_path / "data"))
    images = root / "train/images"
    persons = read_coco_keypoints(root / "train/annotations.json", images, LSP14)
    write_tags(root / "tags.csv", simulate_answers(make_questions(persons, images, 10), persons))
    return root


def _train(recipe: Recipe, root: Path, out: Path) -> loop.Run:
    return train(recipe, data_root=root, out=out, accelerator="cpu", validate_every=100)


def _assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = (load_checkpoint(path)["network"] for path in (a, b))
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []


def test_answers_alone_teach_where_the_joints_are(
    root: Path, make_recipe: MakeRecipe, learn_figures: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make_recipe(data=TAGS_ONLY, **learn_figures)
    run = _train(recipe, root, tmp_path / "run")
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert run.history[-1]["val_pck"] > 0.3  # chance is about 0.05


def test_who_has_no_location_at_all_can_train(root: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (root / part / "annotations.json").unlink()
    data = {"tags": SETS["tags"], "workers": 0}
    recipe = make_recipe(data=data, stages=[{"epochs": 1, "size": [32, 32]}])
    run = train(recipe, data_root=root, out=tmp_path / "out", accelerator="cpu", validate_every=1)
    assert run.finished
    assert "val_pck" not in run.history[-1]


@pytest.mark.parametrize("change", ["permuted", "deleted"])
def test_no_coordinate_reaches_a_location_free_run(
    root: Path, make_recipe: MakeRecipe, tmp_path: Path, change: str
) -> None:
    recipe = make_recipe(data=TAGS_ONLY, **WHOLE_METHOD)
    _train(recipe, root, tmp_path / "before")
    file = root / "train/annotations.json"
    if change == "deleted":
        file.unlink()
    else:
        tree = json.loads(file.read_text(encoding="utf-8"))
        points = [person["keypoints"] for person in tree["annotations"]]
        for person, other in zip(tree["annotations"], points[1:] + points[:1], strict=True):
            person["keypoints"] = np.reshape(other, (14, 3))[::-1].ravel().tolist()
        file.write_text(json.dumps(tree))
    _train(recipe, root, tmp_path / "after")
    _assert_same_weights(tmp_path / "before/last.pt", tmp_path / "after/last.pt")


def test_a_part_of_the_locations_is_drawn_once_and_written_down(
    root: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(data={**SETS, "locations": 0.25})
    _train(recipe, root, tmp_path / "run")
    split = json.loads((tmp_path / "run/split.json").read_text(encoding="utf-8"))
    assert len(set(split["parts"][0]["located"])) == 6
    _train(recipe, root, tmp_path / "again")
    assert (tmp_path / "again/split.json").read_text(encoding="utf-8") == (
        tmp_path / "run/split.json"
    ).read_text(encoding="utf-8")
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(LFPoseError, match="made by another recipe"):
        _train(other, root, tmp_path / "again")
    assert (tmp_path / "again/split.json").read_text(encoding="utf-8") == (
        tmp_path / "run/split.json"
    ).read_text(encoding="utf-8")
    _train(other, root, tmp_path / "other")
    assert json.loads((tmp_path / "other/split.json").read_text(encoding="utf-8"))["parts"] != split["parts"]


def test_a_stopped_run_on_both_kinds_goes_on_to_the_same_weights(
    root: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    recipe = make_recipe(data={**SETS, "locations": 0.5}, **WHOLE_METHOD)
    _train(recipe, root, tmp_path / "whole")
    stop_after(4)
    assert not _train(recipe, root, tmp_path / "broken").finished
    assert _train(recipe, root, tmp_path / "broken").finished
    _assert_same_weights(tmp_path / "whole/last.pt", tmp_path / "broken/last.pt")


@pytest.mark.parametrize("mistakes", [0.0, 0.3])
def test_a_training_says_that_answers_contradict_each_other(
    mistakes: float, root: Path, make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    persons = read_coco_keypoints(root / "train/annotations.json", root / "train/images", LSP14)
    tags = simulate_answers(
        make_questions(persons, root / "train/images", 6), persons, mistakes=mistakes, seed=1
    )
    write_tags(root / "tags.csv", tags)
    make_training_set(make_recipe(data={**SETS, "locations": 0.5}), root)
    assert ("joints contradict each other" in caplog.text) == (mistakes > 0)
    assert ("tags.csv: the answers about" in caplog.text) == (mistakes > 0)


def test_an_unanswered_sheet_is_of_persons_that_only_a_teacher_can_use(
    root: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    persons = read_coco_keypoints(root / "train/annotations.json", root / "train/images", LSP14)
    write_tags(root / "tags.csv", make_questions(persons, root / "train/images", 1))
    data = {**SETS, "locations": 0.5}
    with pytest.raises(RecipeError, match="has no answer: answer its questions, or give loss.teacher"):
        _train(make_recipe(data=data), root, tmp_path / "none")
    run = _train(make_recipe(data=data, loss={"equivariance": 1.0}), root, tmp_path / "run")
    assert run.history[-1]["loss"] > 0
    alone = make_recipe(data={**data, "tags": []})
    assert (
        load_checkpoint(_train(alone, root, tmp_path / "alone").checkpoint)["step"]
        < load_checkpoint(run.checkpoint)["step"]
    )


def test_a_located_person_is_not_asked_about_again(root: Path) -> None:
    images = root / "train/images"
    persons = read_coco_keypoints(root / "train/annotations.json", images, LSP14)
    tags = make_questions(persons, images, 3)
    left = tags.without(persons.first(10), images)
    assert len(left) == 3 * (len(persons) - 10)
    assert set(left.persons.tolist()) == set(persons.annotation_ids[10:].tolist())
    assert (left.regions == tags.regions[30:]).all()
    # The same numbers in another folder are other persons.
    assert len(tags.without(persons.first(10), root / "val/images")) == len(tags)


def _mixture(root: Path) -> CropMixture:
    images = root / "train/images"
    persons = read_coco_keypoints(root / "train/annotations.json", images, LSP14)
    tags = simulate_answers(make_questions(persons, images, 3), persons)
    view = CropView((64, 64), 1.25)
    return CropMixture([PersonCrops(persons.first(10), view), TaggedCrops(tags, images, view)])


def test_a_batch_is_of_one_kind_and_an_epoch_visits_everybody_once(root: Path) -> None:
    mixture = _mixture(root)
    assert len(mixture) == 34
    batches = mixture.epoch_batches(4, (0, 1))
    assert sorted(i for batch in batches for i in batch) == list(range(34))
    kinds = [{type(mixture[i]) for i in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert [kind for kind in kinds if kind == {Sample}] == [{Sample}] * 3
    assert kinds[:3] != [{Sample}] * 3  # the kinds are mixed
    assert {TagSample} in kinds
    assert batches == mixture.epoch_batches(4, (0, 1))
    assert batches != mixture.epoch_batches(4, (0, 2))


def test_an_epoch_of_one_kind_visits_everybody_once(root: Path) -> None:
    located = CropMixture(_mixture(root).parts[:1])
    first, second = (located.epoch_batches(4, (0, epoch)) for epoch in (0, 1))
    assert sorted(i for batch in first for i in batch) == list(range(10))
    assert [len(b) for b in first] == [4, 4, 2]
    assert [len(b) for b in located.epoch_batches(3, (0, 0))] == [3, 3, 4]  # BatchNorm needs two
    assert [len(b) for b in located.epoch_batches(1, (0, 0))] == [1] * 10
    assert first != second


@pytest.mark.parametrize(("share", "lengths"), [(None, [6, 18]), (0.5, [12, 12])])
def test_the_located_few_may_have_a_larger_part_of_an_epoch(
    share: float | None, lengths: list[int], root: Path, make_recipe: MakeRecipe
) -> None:
    data = {**SETS, "locations": 0.25, "located_share": share}
    mixture, _ = make_training_set(make_recipe(data=data), root)
    assert mixture.lengths == lengths


def test_a_joint_that_is_always_seen_is_an_error(root: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    sheet = (root / "tags.csv").read_text(encoding="utf-8").splitlines()
    column = sheet[0].split(",").index("neck")
    rows = [line.split(",") for line in sheet[1:]]
    for row in rows:
        row[column] = "yes"
    (root / "tags.csv").write_text("\n".join([sheet[0], *map(",".join, rows)]))
    with pytest.raises(SourceError, match="the answer about neck is always yes"):
        _train(make_recipe(data=TAGS_ONLY), root, tmp_path / "run")
    assert not (tmp_path / "run/last.pt").exists()
    located = {**SETS, "train": SETS["val"]}  # other people, who have necks
    assert len(make_training_set(make_recipe(data=located), root)[0].parts) == 2


@pytest.mark.parametrize(
    "data", [{"val": SETS["val"]}, {"val": SETS["val"], "train": SETS["train"], "locations": 0}]
)
def test_a_recipe_without_anything_to_learn_from_is_an_error(
    make_recipe: MakeRecipe, data: dict[str, object]
) -> None:
    with pytest.raises(RecipeError, match="needs located persons"):
        make_recipe(data=data)


@pytest.mark.parametrize("option", ["intruder", "crowd"])
def test_others_come_to_located_persons_only(make_recipe: MakeRecipe, option: str) -> None:
    with pytest.raises(RecipeError, match=f"augment.{option} needs located persons"):
        make_recipe(data=TAGS_ONLY, augment={option: 0.5})
