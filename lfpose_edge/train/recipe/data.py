"""The data that a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from lfpose_edge.coco import Unlabelled
from lfpose_edge.train.recipe.base import Fraction, Positive, Section


class DataSet(Section):
    """A COCO-keypoints JSON and the folder of its images, relative to the data root."""

    annotations: Path
    images: Path
    unlabelled: Unlabelled = "absent"
    """Whether a joint without a location is taken to be absent from the image, or nothing is known of it."""
    joints: dict[str, str | None] = {}
    """Maps one of the skeleton's joints to its name in the file, or to null if the file has no such joint;
    joints with the same name need no entry."""


class TagSet(Section):
    """A question sheet (``lfpose tags``) and its folder of images, relative to the data root.

    Without a single answer its persons are unlabelled: only their images are used.
    """

    sheet: Path
    images: Path


class TargetSet(DataSet):
    """A COCO JSON of which only the persons' boxes are read, except for the part that is located."""

    locations: Fraction = 0.0
    """The part of the persons whose locations are used, drawn once by the seed; at 0 none is read."""


def _several(sets: object) -> object:
    return [sets] if isinstance(sets, (dict, Section)) else sets


class Data(Section):
    """The data sets of a training, and how persons are cropped and loaded."""

    train: Annotated[tuple[DataSet, ...], BeforeValidator(_several)] = ()
    """One set of located persons, or a list of sets that are mixed."""
    locations: Fraction = 1.0
    """The part of these persons that is used, drawn once by the seed; at 0 not even the files are read."""
    located_share: float | None = Field(None, gt=0, lt=1)
    """The part of an epoch's source crops that show located persons, when ``tags`` has others, so that a few
    are seen often; by default proportional to the number of persons."""
    tags: Annotated[tuple[TagSet, ...], BeforeValidator(_several)] = ()
    """One question sheet or a list of sheets: persons without a location. Alone, they make a training that
    uses no location."""
    target: Annotated[tuple[TargetSet, ...], BeforeValidator(_several)] = ()
    """Persons of another domain to adapt to; the boxes of all and the locations of a few may be used."""
    val: DataSet | None = None
    """Located persons for periodic validation, for the record only: nothing is selected by it."""
    padding: Positive = 1.25
    """Size of the crop over that of the box."""
    workers: int | None = Field(None, ge=0)
    """Data-loading processes; None chooses by the device: see ``loader_workers`` in ``loop.py``."""

    @property
    def source(self) -> tuple[DataSet, ...]:
        """The sets of located persons that are read; none if ``locations`` is 0."""
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
