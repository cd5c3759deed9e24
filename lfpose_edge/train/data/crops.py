"""Crops of located persons as a torch data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lfpose_edge import ops
from lfpose_edge.geometry import Affines, apply_affine, crop_affines, inside_image, invert_affine
from lfpose_edge.persons import PersonTable
from lfpose_edge.train.data.appearance import Appearance
from lfpose_edge.train.data.augment import coarsen, intrude, random_crop_affine, random_pixels
from lfpose_edge.train.data.crowding import crowded_image
from lfpose_edge.train.recipe import Augment

OF_THE_SOURCE = torch.tensor(False)


class Sample(NamedTuple):
    """One crop, or a batch of them (every field then has a leading B).

    Attributes:
        crop: (3, H, W) uint8 RGB.
        joints: (K, 2) float32 crop pixels.
        labelled: (K,) bool, whether the joint is labelled and inside the crop.
        known: (K,) bool, whether it is known if the joint is present; True where labelled.
        of_target: () bool, whether the crop is of the domain that is adapted to.
    """

    crop: Tensor
    joints: Tensor
    labelled: Tensor
    known: Tensor
    of_target: Tensor = OF_THE_SOURCE


@dataclass(frozen=True)
class CropView:
    """How crops are cut; fixed within an epoch.

    Attributes:
        size: crop height and width.
        padding: size of the crop over that of the box.
        augment: random changes, or None for the plain crop.
        seed: together with the sample's index it determines all random choices, in any worker.
        appearance: the target's appearance, in which the source's crops are shown.
        border: grey level of a crop's pixels beyond the image.
    """

    size: tuple[int, int]
    padding: float
    augment: Augment | None = None
    seed: tuple[int, ...] = (0,)
    appearance: Appearance | None = None
    border: int = 0

    def cut(self, image: NDArray[Any], affine: Affines) -> NDArray[np.uint8]:
        """Cut a (3, H, W) RGB crop from a BGR image, given its affine (2, 3) to image coordinates."""
        border = (self.border,) * 3
        crops: NDArray[np.uint8] = ops.preprocess(
            image, affine[None], self.size, swap_rb=True, border=border, dtype=np.uint8
        )
        return crops[0]

    def shown(
        self, image: NDArray[Any], affine: Affines, rng: np.random.Generator, *, of_target: bool
    ) -> NDArray[np.uint8]:
        """As :meth:`cut`; the source's crops get the target's appearance where the view has one."""
        crop = self.cut(image, affine)
        if self.augment is None or self.appearance is None or of_target:
            return crop
        return self.appearance.of_target(crop, inside_image(affine, self.size, image.shape[:2]), rng)

    def affine(self, box: NDArray[np.float64], rng: np.random.Generator) -> tuple[Affines, bool]:
        """The (2, 3) affine of a box's crop to image coordinates, and whether it mirrors left and right."""
        if self.augment is None:
            return crop_affines(box, self.size, padding=self.padding)[0], False
        return random_crop_affine(box, self.size, self.padding, self.augment, rng)

    def repainted(self, crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A (3, H, W) crop with its pixels changed at random, if the view augments."""
        if self.augment is None:
            return crop
        if self.augment.coarse and rng.random() < self.augment.coarse:
            crop = coarsen(crop, rng)
        return random_pixels(crop, self.augment, rng)


class PersonCrops(Dataset[Sample]):
    """Crops of the persons of a table; every image is decoded on access."""

    def __init__(self, persons: PersonTable, view: CropView, *, of_target: bool = False) -> None:
        self.persons, self.view, self.of_target = persons, view, of_target
        self._mirror = persons.skeleton.flip_permutation

    def with_view(self, **changes: object) -> PersonCrops:
        """The same persons, cropped in another way."""
        view = replace(self.view, **changes)  # type: ignore[arg-type]
        return PersonCrops(self.persons, view, of_target=self.of_target)

    def names(self) -> list[str]:
        """The image of every person."""
        return [path.name for path in self.persons.images]

    def columns(self) -> tuple[NDArray[Any], ...]:
        """Everything else that the training knows about the persons."""
        persons = self.persons
        return persons.annotation_ids, persons.boxes, persons.joints, persons.labelled, persons.known

    def __len__(self) -> int:
        return len(self.persons)

    def _image(self, index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        augment = self.view.augment
        if augment is not None and augment.crowd and rng.random() < augment.crowd:
            return crowded_image(self.persons, index, rng)
        return self.persons.image(index)

    def __getitem__(self, index: int) -> Sample:
        view = self.view
        box, joints = self.persons.boxes[index], self.persons.joints[index]
        labelled, known = self.persons.labelled[index], self.persons.known[index]
        rng = np.random.default_rng((*view.seed, index))
        affine, flip = view.affine(box, rng)
        crop = view.shown(self._image(index, rng), affine, rng, of_target=self.of_target)
        if view.augment is not None and view.augment.intruder and rng.random() < view.augment.intruder:
            other = int(rng.integers(len(self.persons)))
            theirs = view.affine(self.persons.boxes[other], rng)[0]
            intruder = view.shown(self.persons.image(other), theirs, rng, of_target=self.of_target)
            crop = intrude(crop, intruder, rng)
        crop = view.repainted(crop, rng)

        joints = apply_affine(invert_affine(affine), joints)
        height, width = view.size
        inside = np.all((joints >= 0) & (joints < (width, height)), axis=1)
        labelled = labelled & inside
        if flip:
            joints, labelled, known = (column[self._mirror] for column in (joints, labelled, known))
        return Sample(
            torch.from_numpy(crop),
            torch.from_numpy(joints.astype(np.float32)),
            torch.from_numpy(labelled),
            torch.from_numpy(known),
            torch.tensor(self.of_target),
        )
