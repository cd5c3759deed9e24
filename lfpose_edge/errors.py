"""The exceptions of lfpose-edge: each message says what went wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LFPoseError(Exception):
    """Base class of everything that lfpose-edge raises on purpose."""


class BackendUnavailable(LFPoseError):
    """The requested device, engine or precision is not available on this machine."""


class BundleError(LFPoseError):
    """A model bundle is missing, damaged, or has an unsupported schema version."""


class EngineMismatch(BackendUnavailable):
    """A compiled engine was built for another model, GPU or library version."""


class CalibrationError(LFPoseError):
    """A calibration set is missing, too small, or unusable."""


class SourceError(LFPoseError):
    """An image, a video or a data set cannot be read."""


class AccuracyGateError(LFPoseError):
    """A converted model lost more accuracy than was allowed; nothing was published."""


class RecipeError(LFPoseError):
    """A training recipe has an unknown, missing or contradictory entry."""


class TrainingDiverged(LFPoseError):
    """A training run has diverged.

    Attributes:
        what: what happened, without the advice on what to do, which depends on how the run was started.
    """

    def __init__(self, what: str, to_do: str) -> None:
        super().__init__(f"{what}: {to_do}")
        self.what = what


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause that suggests the nearest known name, or lists them all when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
