"""Recipes: defaults, overrides, and one clear error for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lfpose_edge.errors import RecipeError
from lfpose_edge.train.recipe import Augment, load_recipe, parse_recipe

GOOD = """
name: tiny
skeleton: lsp14
data:
  train: {annotations: a.json, images: images}
  val: {annotations: b.json, images: images}
stages:
  - {epochs: 3, size: [64, 64]}
  - {epochs: 2, size: [128, 96]}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(("epoch", "size"), [(0, (64, 64)), (2, (64, 64)), (3, (128, 96)), (4, (128, 96))])
def test_size_follows_the_stages(recipe_file: Path, epoch: int, size: tuple[int, int]) -> None:
    recipe = load_recipe(recipe_file)
    assert recipe.stage_at(epoch).size == size
    assert recipe.epochs == 5
    assert recipe.input_size == (128, 96)


def test_a_stage_may_have_changes_of_its_own(recipe_file: Path) -> None:
    mild = "stages=[{epochs: 1, size: [64, 64]}, {epochs: 1, size: [64, 64], augment: {cutout: 0.1}}]"
    recipe = load_recipe(recipe_file, [mild])
    assert recipe.stage_at(0).augment is None
    assert recipe.stage_at(1).augment == Augment(cutout=0.1)


def test_several_sets_are_mixed_and_one_needs_no_list(recipe_file: Path) -> None:
    (one,) = load_recipe(recipe_file).data.train
    assert (one.annotations, one.unlabelled) == (Path("a.json"), "absent")
    more = "{annotations: b.json, images: i, unlabelled: unknown}"
    both = load_recipe(recipe_file, [f"data.train=[{{annotations: a.json, images: images}}, {more}]"])
    assert [d.annotations.name for d in both.data.train] == ["a.json", "b.json"]
    assert both.data.train[1].unlabelled == "unknown"
    assert parse_recipe(both.model_dump(mode="json"), where="again") == both


def test_overrides_reach_any_depth(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["optimizer.batch_size=4", "network.widths=[16, 8]", "seed=7"])
    assert (recipe.optimizer.batch_size, recipe.network.widths, recipe.seed) == (4, (16, 8), 7)


@pytest.mark.parametrize(
    "name",
    [
        "adapt",
        "adapt_coco",
        "efasnet_edge",
        "efasnet_r50",
        "finetune",
        "lfpose_lite",
        "lfpose_lite_lspet",
        "lfpose_lite_people",
        "lfpose_lite_votes",
        "location_free",
    ],
)
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_recipe(name).name == name.replace("_", "-")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.batchsize=4", ["optimizer.batchsize", "did you mean 'batch_size'"]),
        ("stages=[{epochs: 1", ["override 'stages=[{epochs: 1'", "not YAML"]),
        ("seed=-1", ["seed", "greater than or equal to 0"]),
        ("seed=99999999999999999999", ["seed", "less than"]),
        ("loss.sigma_cells=.inf", ["loss.sigma_cells", "finite"]),
        ("augment.rotation_deg=.nan", ["augment.rotation_deg", "finite"]),
        ("data.padding=.inf", ["data.padding", "finite"]),
        ("name=../elsewhere", ["name", "match"]),
        ("name=''", ["name", "match"]),
        ("nmae=x", ["unknown entry 'nmae'", "did you mean 'name'"]),
        ("data.train.image=x", ["data.train.0.image", "did you mean 'images'"]),
        ("skeleton=lsp15", ["unknown skeleton 'lsp15'", "did you mean 'lsp14'"]),
        ("stages=[{epochs: 1, size: [60, 64]}]", ["multiples of 32"]),
        ("stages=[]", ["stages"]),
        ("loss={teacher_turns: true}", ["loss.teacher_turns turns crops", "square stages"]),
        ("loss={teacher_maps: 0.6}", ["loss.teacher_maps", "give loss.teacher a weight"]),
        ("loss={teacher_mirrors: true}", ["loss.teacher_mirrors", "give loss.teacher a weight"]),
        ("network={freeze_stages: 2, pretrained: false}", ["network.freeze_stages", "start_from"]),
        ("data.located_share=0.5", ["located_share", "give both"]),
        ("loss.sigma_cells=0", ["loss.sigma_cells", "greater than 0"]),
        ("name.x=1", ["'name' is not a section"]),
        ("stages.0.epochs=1", ["'stages' is not a section", "'stages=[{...}, ...]'"]),
        ("epochs=2", ["unknown entry 'epochs'", "it is an entry of stages"]),
        ("lr_head=2", ["unknown entry 'lr_head'", "it is an entry of optimizer"]),
        ("seed", ["section.key=value"]),
    ],
)
def test_a_mistake_is_named(recipe_file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file, [override])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_list_all_is_given_by_its_whole_name(recipe_file: Path) -> None:
    several = "data.train=[{annotations: a.json, images: a}, {annotations: b.json, images: b}]"
    with pytest.raises(
        RecipeError, match=r"'train' is not a section .* 'data\.train=\[\{\.\.\.\}, \.\.\.\]'"
    ):
        load_recipe(recipe_file, [several, "data.train.images=c"])


@pytest.mark.parametrize(
    ("text", "word"), [("- a\n- b\n", "mapping"), ("{", "not a readable recipe"), ("name: x\n", "skeleton")]
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=word):
        load_recipe(path)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'lfpose_lite'"):
        load_recipe("lfpose_light")


def test_parse_names_its_source() -> None:
    with pytest.raises(RecipeError, match="^here: "):
        parse_recipe({}, where="here")
