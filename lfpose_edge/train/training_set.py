"""The persons that a recipe trains on: located and tagged ones of the source, and those of a target."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lfpose_edge.coco import read_coco_boxes, read_coco_keypoints
from lfpose_edge.errors import RecipeError
from lfpose_edge.persons import PersonTable, joined
from lfpose_edge.train.data.appearance import Appearance, Pictures, estimate_appearance
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.data.tagged_crops import TaggedCrops
from lfpose_edge.train.data.tags import (
    Tags,
    contradictions,
    make_questions,
    read_tags,
    require_both_answers,
)
from lfpose_edge.train.recipe import DataSet, Recipe, TargetSet

logger = logging.getLogger("lfpose_edge")

_OF_THE_TARGET = 1  # added to the seed that draws the located persons of a target
_FEW = 0.25  # least part of the target's crops that show its located persons


def make_training_set(recipe: Recipe, root: Path) -> tuple[CropMixture, list[dict[str, Any]]]:
    """All persons that a recipe trains on, and which of them are located where only a part is.

    A target has as many crops in an epoch as the source. If some of its persons are located, at least a
    quarter of these crops show them, however few they are; the length of an epoch stays the same.

    Raises:
        RecipeError, SourceError: the recipe or its data cannot be used.
    """
    view = CropView((0, 0), recipe.data.padding)
    split: list[dict[str, Any]] = []
    source = [
        _drawn(part, recipe.data.locations, (recipe.seed, number), recipe, root, split)
        for number, part in enumerate(recipe.data.source)
    ]
    few = [
        _drawn(part, part.locations, (recipe.seed, number, _OF_THE_TARGET), recipe, root, split)
        for number, part in enumerate(recipe.data.target)
        if part.locations
    ]
    answered: dict[str, Tags] = {}
    parts: list[PersonCrops | TaggedCrops] = [PersonCrops(joined(source), view)] if source else []
    for file, folder, tags, of_target in _unlocated(recipe, root):
        for table in (*source, *few):  # locations make a person's tags redundant
            tags = tags.without(table, folder)
        if not len(tags):
            continue
        if tags.given:
            answered[str(file)] = tags
            _warn_of_contradictions(tags, file)
        elif not recipe.two_views and recipe.adapt is None:
            message = (
                f"{file} has no answer: answer its questions, or give loss.teacher or loss.equivariance a "
                "weight, or adapt to its persons, to learn from them without"
            )
            raise RecipeError(message)
        parts.append(TaggedCrops(tags, folder, view, two_views=recipe.two_views, of_target=of_target))
    if answered:
        joints, located = recipe.joints.keypoints, (*source, *few)
        taught = [name for k, name in enumerate(joints) if any(p.labelled[:, k].any() for p in located)]
        require_both_answers([*answered.values()], ", ".join(answered), taught)
    if few:
        parts.append(PersonCrops(joined(few), view, of_target=True))
    return CropMixture(parts, _lengths(parts, recipe.data.located_share)), split


def _warn_of_contradictions(tags: Tags, sheet: Path) -> None:
    wrong = np.argwhere(contradictions(tags))
    if not len(wrong):
        return
    person, joint = wrong[0]
    first = tags.rows_by_person()[person][0]
    logger.warning(
        "%s: the answers about %d of %d joints contradict each other, as those about the %s of person %d in "
        "%s: no place is in all regions that have a yes and in none that has a no",
        sheet,
        len(wrong),
        len(tags.rows_by_person()) * len(tags.skeleton),
        tags.skeleton.keypoints[joint],
        tags.persons[first],
        tags.images[first],
    )


def target_appearance(persons: CropMixture, recipe: Recipe, size: tuple[int, int]) -> Appearance | None:
    """How the target's crops of a size look compared with the source's, if the recipe asks for it."""
    if recipe.adapt is None or not recipe.adapt.appearance:
        return None
    source, target = (
        _pictures(persons.of_domain(target=domain), size, recipe.seed) for domain in (False, True)
    )
    return estimate_appearance(source, target, recipe.adapt.appearance)


def _pictures(persons: CropMixture, size: tuple[int, int], seed: int) -> Pictures:
    black, white = (
        np.concatenate([crops.numpy() for crops in persons.plain_crops(size, seed, border=level)])
        for level in (0, 255)
    )
    return Pictures(black, (black == white).all(axis=1))


def _lengths(parts: Sequence[PersonCrops | TaggedCrops], located_share: float | None) -> list[int]:
    """The number of crops of each part in an epoch: one per person of the source, and as many of a target."""
    total = sum(len(part) for part in parts if not part.of_target)

    def length(part: PersonCrops | TaggedCrops) -> int:
        domain = [other for other in parts if other.of_target == part.of_target]
        located = sum(len(other) for other in domain if isinstance(other, PersonCrops))
        others = sum(map(len, domain)) - located
        share = located / (located + others)
        if located and others:
            share = max(share, _FEW) if part.of_target else located_share or share
        if isinstance(part, PersonCrops):
            return max(1, round(total * share * len(part) / located))
        return max(1, round(total * (1 - share) * len(part) / others))

    return [length(part) for part in parts]


def read_persons(data: DataSet | TargetSet, recipe: Recipe, root: Path) -> PersonTable:
    """The located persons of one of a recipe's data sets."""
    return read_coco_keypoints(
        root / data.annotations,
        root / data.images,
        recipe.joints,
        unlabelled=data.unlabelled,
        names=data.joints,
    )


def _drawn(
    data: DataSet | TargetSet,
    locations: float,
    seed: tuple[int, ...],
    recipe: Recipe,
    root: Path,
    split: list[dict[str, Any]],
) -> PersonTable:
    """Draw the part of a data set's persons that is located, and record it in ``split`` if it is not all."""
    persons = read_persons(data, recipe, root)
    order = np.random.default_rng(seed).permutation(len(persons))
    count = max(1, round(locations * len(persons)))
    drawn = persons.chosen(sorted(order[:count].tolist()))
    if locations < 1:
        split.append({"annotations": str(data.annotations), "located": drawn.annotation_ids.tolist()})
    return drawn


def _unlocated(recipe: Recipe, root: Path) -> Iterator[tuple[Path, Path, Tags, bool]]:
    """Yield persons without a location: their file, image folder, tags, and whether they are a target."""
    for sheet in recipe.data.tags:
        yield root / sheet.sheet, root / sheet.images, read_tags(root / sheet.sheet, recipe.joints), False
    for target in recipe.data.target:
        annotations, folder = root / target.annotations, root / target.images
        persons = read_coco_boxes(annotations, folder, recipe.joints, names=target.joints)
        yield annotations, folder, make_questions(persons, folder, 1), True
