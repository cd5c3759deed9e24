"""Crops of persons as a network takes them, and marks that identify them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.bundle import Input
from lfpose_edge.geometry import Affines, crop_affines
from lfpose_edge.persons import PersonTable

Floats = NDArray[np.float32]
Progress = Callable[[Iterable[int]], Iterable[int]]

_HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class CropSet:
    """Crops, ready for the network, and where they come from.

    Attributes:
        crops: (N, 3, H, W) float32, normalised as the manifest says.
        affines: (N, 2, 3) crop to image coordinates.
        persons: boxes, and joints where they are labelled, of the N crops.
        marks: what identifies each crop: the hash of its image, and its box.
    """

    crops: Floats
    affines: Affines
    persons: PersonTable
    marks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def shown(self) -> tuple[bytes, ...]:
        """The image hash of each crop."""
        return tuple(mark[:_HASH_BYTES] for mark in self.marks)

    @property
    def sha256(self) -> str:
        """Hash of the marks, in order; the same crops have the same hash on every machine."""
        return hashlib.sha256(b"".join(self.marks)).hexdigest()

    def distinct(self) -> CropSet:
        """These crops without duplicates, which prove nothing about other images."""
        first = {mark: row for row, mark in reversed(list(enumerate(self.marks)))}
        return self.part(sorted(first.values()))

    def part(self, rows: Sequence[int]) -> CropSet:
        """These crops, in this order."""
        index = np.asarray(rows, np.intp)
        marks = tuple(self.marks[row] for row in rows)
        return CropSet(self.crops[index], self.affines[index], self.persons.chosen(rows), marks)


def cut_crops(persons: PersonTable, how: Input, progress: Progress = iter) -> CropSet:
    """Cut the persons' crops as the runtime cuts them."""
    affines = crop_affines(persons.boxes, how.size, padding=how.padding)
    swap = how.color == "rgb"
    border = how.border[::-1] if swap else how.border
    marks = []
    crops = np.empty((len(persons), 3, *how.size), np.float32)
    for i in progress(range(len(persons))):
        image = hashlib.sha256(persons.images[i].read_bytes()).digest()
        marks.append(image + np.round(persons.boxes[i], 3).tobytes())
        crops[i : i + 1] = ops.preprocess(
            persons.image(i),
            affines[i : i + 1],
            how.size,
            swap_rb=swap,
            mean=how.mean,
            std=how.std,
            border=border,
        )
    return CropSet(crops, affines, persons, tuple(marks))
