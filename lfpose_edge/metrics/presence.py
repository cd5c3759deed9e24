"""Accuracy of the predicted presence: the area under the ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The probability that a positive has a higher score than a negative, with ties counting half.

    Args:
        scores: (N,) scores.
        positive: (N,) bool.

    Returns:
        A value in [0, 1], 0.5 for uninformative scores; NaN without positives, without negatives, or if a
        score is NaN.
    """
    values: NDArray[np.float64] = np.asarray(scores, np.float64)
    is_positive: NDArray[np.bool_] = np.asarray(positive, bool)
    negatives = np.sort(values[~is_positive])
    if len(negatives) == 0 or not is_positive.any() or np.isnan(values).any():
        return float("nan")
    below, up_to = (np.searchsorted(negatives, values[is_positive], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negatives))
