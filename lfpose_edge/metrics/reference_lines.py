"""What a prediction is worth that looks at no picture: the lines that any model must be above."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.persons import PersonTable


def centre_of_box(persons: PersonTable) -> NDArray[np.float64]:
    """Every joint (N, K, 2) in the middle of its person's box, image pixels."""
    corners = persons.boxes.reshape(-1, 2, 2)
    return np.repeat(corners.mean(axis=1)[:, None], len(persons.skeleton), axis=1)


def mean_pose(persons: PersonTable) -> NDArray[np.float64]:
    """Every joint (N, K, 2) where it is on average in the boxes of these very persons, image pixels.

    It knows the answers' average, which no model may: a line to be above, not a competitor. A joint that
    nobody has is in the middle.
    """
    corner = persons.boxes[:, None, :2]
    extent = persons.boxes[:, None, 2:] - corner
    count = persons.labelled.sum(axis=0)[:, None]
    total = (((persons.joints - corner) / extent) * persons.labelled[..., None]).sum(axis=0)
    mean = np.divide(total, count, where=count > 0, out=np.full_like(total, 0.5))
    placed: NDArray[np.float64] = corner + mean * extent
    return placed
