"""Baselines that do not look at the image, which any model must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.persons import PersonTable


def centre_of_box(persons: PersonTable) -> NDArray[np.float64]:
    """Place every joint at the centre of the person's box; (N, K, 2) image pixels."""
    corners = persons.boxes.reshape(-1, 2, 2)
    return np.repeat(corners.mean(axis=1)[:, None], len(persons.skeleton), axis=1)


def mean_pose(persons: PersonTable) -> NDArray[np.float64]:
    """Place every joint at its mean position within the boxes of these same persons; (N, K, 2) image pixels.

    This uses the truth's average, which no model may, so it is a baseline and not a competitor. A joint that
    is never labelled is placed at the centre.
    """
    corner = persons.boxes[:, None, :2]
    extent = persons.boxes[:, None, 2:] - corner
    count = persons.labelled.sum(axis=0)[:, None]
    total = (((persons.joints - corner) / extent) * persons.labelled[..., None]).sum(axis=0)
    mean = np.divide(total, count, where=count > 0, out=np.full_like(total, 0.5))
    placed: NDArray[np.float64] = corner + mean * extent
    return placed
