"""Whom a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from lfpose_edge.coco import Unlabelled
from lfpose_edge.train.recipe.base import Fraction, Positive, Section


class DataSet(Section):
    """One COCO-keypoints JSON and the folder of its images, relative to the data root."""

    annotations: Path
    images: Path
    unlabelled: Unlabelled = "absent"
    """What a joint without a location is: not to be seen, or nobody knows."""
    joints: dict[str, str | None] = {}
    """Of the skeleton's joints that are not the file's of the same name: its name of them, or null."""


class TagSet(Section):
    """A question sheet (``lfpose tags``) and its folder of images, relative to the data root.

    Without a single answer its persons are unlabelled: their pictures are all that is known.
    """

    sheet: Path
    images: Path


class TargetSet(DataSet):
    """A COCO JSON of which only the persons' boxes are read, but for the part that is located."""

    locations: Fraction = 0.0
    """The part of the persons whose locations are used, drawn once by the seed; of 0 none is read."""


def _several(sets: object) -> object:
    return [sets] if isinstance(sets, (dict, Section)) else sets


class Data(Section):
    train: Annotated[tuple[DataSet, ...], BeforeValidator(_several)] = ()
    """One set of located persons, or a list of sets that are mixed."""
    locations: Fraction = 1.0
    """The part of these persons that is used, drawn once by the seed; of 0 not even the files are read."""
    located_share: float | None = Field(None, gt=0, lt=1)
    """The part of an epoch's crops that are of them where tags have others, so that few are seen often; as
    many as there are persons when not given."""
    tags: Annotated[tuple[TagSet, ...], BeforeValidator(_several)] = ()
    """One question sheet, or several: persons without a location. Alone they train without any."""
    target: Annotated[tuple[TargetSet, ...], BeforeValidator(_several)] = ()
    """Persons of another domain, to adapt to, of whom the boxes are known, and of a few the locations."""
    val: DataSet | None = None
    """Located persons that are measured now and then, for the record: nothing is chosen by it."""
    padding: Positive = 1.25
    """The crop's size over the box's."""
    workers: int | None = Field(None, ge=0)
    """Processes that load; None is for what suits the device: see ``loader_workers`` in ``loop.py``."""

    @property
    def source(self) -> tuple[DataSet, ...]:
        """The sets of located persons that are read: with no locations, none."""
        return self.train if self.locations else ()

    @property
    def unlocated(self) -> bool:
        """Whether there are persons without a location."""
        return bool(self.tags or self.target)

    @model_validator(mode="after")
    def _check(self) -> Data:
        if not self.source and not self.tags:
            message = "a training needs located persons (train), answered tag sheets (tags), or both"
            raise ValueError(message)
        if self.located_share is not None and not (self.source and self.tags):
            message = "located_share is of located persons (train) beside others (tags): give both"
            raise ValueError(message)
        return self
