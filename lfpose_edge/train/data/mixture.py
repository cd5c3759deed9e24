"""Several data sets combined into one; each batch comes from one of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lfpose_edge.train.data.crops import PersonCrops, Sample
from lfpose_edge.train.data.tagged_crops import TaggedCrops, TagSample

_PLAIN, _MOST_PLAIN = 32, 512
_LOOK = 1  # added to the seed that draws whether a batch gets the target's appearance


class CropMixture(Dataset["Sample | TagSample"]):
    """Located and tagged persons, one part after the other.

    Args:
        parts: at least one data set.
        lengths: number of crops of each part in an epoch, by default its number of persons. With fewer, the
            persons are drawn anew every epoch; with more, all are seen several times, and the remainder is
            drawn anew.
    """

    def __init__(
        self, parts: Sequence[PersonCrops | TaggedCrops], lengths: Sequence[int] | None = None
    ) -> None:
        self.parts = list(parts)
        self.lengths = list(lengths or map(len, self.parts))
        # Repetitions of a person have indices of their own.
        rounds = [-(-length // len(part)) for part, length in zip(self.parts, self.lengths, strict=True)]
        self._ends = list(accumulate(n * len(part) for part, n in zip(self.parts, rounds, strict=True)))
        self._starts = [0, *self._ends[:-1]]

    def with_view(self, **changes: object) -> CropMixture:
        """The same persons, cropped in another way."""
        seed = changes.pop("seed", None)
        # Every part has its own seed, so that a part that occurs twice is seen in two ways.
        seeds: list[dict[str, object]] = [
            {} if seed is None else {"seed": (*seed, number) if number else seed}  # type: ignore[misc]
            for number in range(len(self.parts))
        ]
        parts = [part.with_view(**changes, **own) for part, own in zip(self.parts, seeds, strict=True)]
        return CropMixture(parts, self.lengths)

    def digest(self) -> str:
        """Digest of the persons and of all that is known about them; images count by their names only."""
        made = hashlib.sha256(repr(self.lengths).encode())
        for part in self.parts:
            made.update(repr(part.names()).encode())
            for column in part.columns():
                made.update(np.ascontiguousarray(column).tobytes())
        return made.hexdigest()

    def of_domain(self, *, target: bool) -> CropMixture:
        """The persons of one domain, each once; there must be at least one."""
        return CropMixture([part for part in self.parts if part.of_target == target])

    def plain_crops(self, size: tuple[int, int], seed: int, *, border: int = 0) -> Iterator[Tensor]:
        """Yield at most 512 unaugmented crops, the first of an epoch, in batches (B, 3, H, W) uint8 RGB.

        ``border`` is the grey level of their pixels beyond the images.
        """
        crops = self.with_view(size=size, border=border)
        for batch in crops.epoch_batches(_PLAIN, (seed, 0))[: _MOST_PLAIN // _PLAIN]:
            yield torch.stack([sample.crop for sample in crops.__getitems__(batch)])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample | TagSample:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        again, row = divmod(index - self._starts[number], len(part))
        if again:  # the same person in another view
            part = part.with_view(seed=(*part.view.seed, 0, again))
        return part[row]

    def __getitems__(self, indices: list[int]) -> list[Sample | TagSample]:
        """Load a batch, as torch's loader asks for it; in the trainer's own process, on all cores.

        Decoding and cropping let other threads run, and randomness depends on the indices alone. A batch has
        the appearance of one camera, since BatchNorm sees one camera's crops at a time.
        """
        crops = self._as_shown(indices[0])
        if get_worker_info() is not None:
            return [crops[i] for i in indices]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(crops.__getitem__, indices))

    def _as_shown(self, first: int) -> CropMixture:
        """These crops with or without the target's appearance, as drawn for the batch that begins so."""
        view = self.parts[0].view
        if view.appearance is None:
            return self
        rng = np.random.default_rng((*view.seed, first, _LOOK))
        return self if rng.random() < view.appearance.chance else self.with_view(appearance=None)

    def epoch_batches(self, batch_size: int, seed: tuple[int, ...]) -> list[list[int]]:
        """All indices of an epoch in order, in batches of one part each.

        A part's last batch may be smaller; a batch of one, which BatchNorm cannot normalise, is merged into
        the one before.
        """
        batches = []
        for number, (part, length) in enumerate(zip(self.parts, self.lengths, strict=True)):
            rng = np.random.default_rng((*seed, number) if number else seed)
            chosen = np.arange(length)
            again = length - length % len(part)
            if again < length:
                chosen[again:] = again + rng.choice(len(part), length - again, replace=False)
            order = rng.permutation(chosen) + self._starts[number]
            own = [order[i : i + batch_size].tolist() for i in range(0, length, batch_size)]
            if len(own) > 1 and len(own[-1]) == 1 < batch_size:
                own[-2:] = [own[-2] + own[-1]]
            batches += own
        if len(self.parts) == 1:
            return batches
        return [batches[i] for i in np.random.default_rng((*seed, len(self.parts))).permutation(len(batches))]
