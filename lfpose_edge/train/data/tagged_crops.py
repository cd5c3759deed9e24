"""Crops of persons with tags but without locations, as a torch data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lfpose_edge.errors import SourceError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.sources import load_stored
from lfpose_edge.train.data.crops import OF_THE_SOURCE, CropView
from lfpose_edge.train.data.tags import OPEN, Tags


class TagSample(NamedTuple):
    """One crop, or a batch of them (every field then has a leading B).

    Attributes:
        crop: (3, H, W) uint8 RGB.
        affine: (2, 3) float32, crop to image pixels.
        regions: (R, 4) float32 x1, y1, x2, y2 in image pixels; regions that pad a person's to R are empty.
        whole: (R,) bool, whether the region is the person's box.
        answers: (R, K) int8, see :class:`Tags`; in a mirrored crop left and right are exchanged.
        rates: (K,) float32, the rate of yes among the sheet's answers about a joint; exchanged likewise.
        easy: (3, H, W) uint8 RGB, the plain crop of the same person, never mirrored; empty without two views.
        easy_affine: (2, 3) float32, the easy crop to image pixels.
        of_target: () bool, whether the crop is of the domain that is adapted to.
    """

    crop: Tensor
    affine: Tensor
    regions: Tensor
    whole: Tensor
    answers: Tensor
    rates: Tensor
    easy: Tensor
    easy_affine: Tensor
    of_target: Tensor = OF_THE_SOURCE


class TaggedCrops(Dataset[TagSample]):
    """Crops of a sheet's persons. No joint locations are available here to a training.

    Args:
        tags: the answered sheet.
        folder: folder of its images.
        view: how crops are cut.
        two_views: cut the plain crop too.
        of_target: whether the persons are of the domain that is adapted to.

    Raises:
        SourceError: an image is missing from the folder.
    """

    def __init__(
        self, tags: Tags, folder: Path, view: CropView, *, two_views: bool = False, of_target: bool = False
    ) -> None:
        self.tags, self.folder, self.view = tags, folder, view
        self.two_views, self.of_target = two_views, of_target
        self._rates = np.nan_to_num(tags.rates(), nan=0.5).astype(np.float32)
        self._rows = tags.rows_by_person()
        self._most = max(map(len, self._rows), default=0)
        self._mirror = tags.skeleton.flip_permutation
        missing = next((name for name in dict.fromkeys(tags.images) if not (folder / name).is_file()), None)
        if missing is not None:
            message = f"an image of persons without a location is not there: {folder / missing}"
            raise SourceError(message)

    def with_view(self, **changes: object) -> TaggedCrops:
        """The same persons, cropped in another way."""
        again = object.__new__(TaggedCrops)
        again.__dict__ = {**self.__dict__, "view": replace(self.view, **changes)}  # type: ignore[arg-type]
        return again

    def names(self) -> list[str]:
        """The image of every row of the sheet."""
        return self.tags.images

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Everything else that the training knows about the persons."""
        tags = self.tags
        return tags.persons, tags.boxes, tags.regions, tags.answers

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TagSample:
        rows, view = self._rows[index], self.view
        box = self.tags.boxes[rows[0]]
        rng = np.random.default_rng((*view.seed, index))
        affine, flip = view.affine(box, rng)
        image = load_stored(self.folder / self.tags.images[rows[0]])
        crop = view.shown(image, affine, rng, of_target=self.of_target)
        easy_affine = crop_affines(box, view.size, padding=view.padding)[0]
        easy = view.cut(image, easy_affine) if self.two_views else np.zeros(0, np.uint8)
        crop = view.repainted(crop, rng)
        regions = np.zeros((self._most, 4), np.float32)
        answers = np.full((self._most, len(self.tags.skeleton)), OPEN, np.int8)
        regions[: len(rows)] = self.tags.regions[rows]
        answers[: len(rows)] = self.tags.answers[rows]
        rates = self._rates
        if flip:
            answers, rates = answers[:, self._mirror], rates[self._mirror]
        return TagSample(
            torch.from_numpy(crop),
            torch.from_numpy(affine.astype(np.float32)),
            torch.from_numpy(regions),
            torch.from_numpy(np.abs(regions - box).max(axis=1) < 0.01),
            torch.from_numpy(answers),
            torch.from_numpy(rates),
            torch.from_numpy(easy),
            torch.from_numpy(easy_affine.astype(np.float32)),
            torch.tensor(self.of_target),
        )
