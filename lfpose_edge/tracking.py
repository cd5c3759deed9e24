"""Track persons from frame to frame, and smooth their joints."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.arguments import check_number
from lfpose_edge.persons import AREA_OF_BOX
from lfpose_edge.results import PoseResult
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.smoothing import OneEuroFilter

Doubles = NDArray[np.float64]

_SPEED_S = 0.2  # time constant for averaging a person's speed; over a single step it would be box noise
_LEAST_SHARED = 3  # joints that two poses must share to be compared by OKS
_LEAST_SIDE = 1.0  # pixels


@dataclass
class _Track:
    """A tracked person.

    Attributes:
        number: the track id.
        keypoints, visible, box: as last detected, not smoothed.
        time_s: time of that detection.
        speed: (2,) velocity of the box's centre, in pixels per second.
        smoothing: filter of the joints; None if they are not smoothed.
    """

    number: int
    keypoints: Doubles
    visible: NDArray[np.bool_]
    box: Doubles
    time_s: float
    speed: Doubles
    smoothing: OneEuroFilter | None


class PoseTracker:
    """Assigns each person in a video a persistent number, and removes the jitter of the joints.

    >>> tracker = PoseTracker()
    >>> for frame in frames("video.mp4"):
    ...     result = tracker(pose(frame.image), frame.time_s)
    ...     result.track_ids

    Persons are matched greedily, best pair first, to the tracks of earlier frames, moved on at their speed.
    Similarity is the mean of object keypoint similarity (OKS) and the boxes' intersection over union. Visible
    joints are smoothed by :class:`lfpose_edge.smoothing.OneEuroFilter`.

    Use one tracker per video or camera, and call it from one thread.

    Args:
        smooth: whether joints are smoothed.
        min_cutoff_hz, beta: parameters of that filter. A lower ``min_cutoff_hz`` reduces jitter of persons
            at rest, a higher ``beta`` reduces lag of fast ones.
        min_similarity: similarity that a match must exceed, in [0, 1].
        patience_s: how long a person may go unseen before the track ends; never before the next frame.
        fps: frame rate assumed when frames come without a time.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        smooth: bool = True,
        min_cutoff_hz: float = 1.0,
        beta: float = 20.0,
        min_similarity: float = 0.2,
        patience_s: float = 1.0,
        fps: float = 30.0,
    ) -> None:
        check_number("min_cutoff_hz", min_cutoff_hz, 1e-3)
        check_number("beta", beta, 0)
        check_number("min_similarity", min_similarity, 0, 1)
        check_number("patience_s", patience_s, 0)
        check_number("fps", fps, 1e-3)
        self._filter = (min_cutoff_hz, beta) if smooth else None
        self._min_similarity, self._patience_s, self._fps = min_similarity, patience_s, fps
        self._tracks: list[_Track] = []
        self._given, self._time_s = 0, -math.inf
        self._skeleton: Skeleton | None = None

    def __call__(self, result: PoseResult, time_s: float | None = None) -> PoseResult:
        """Assign track ids to the persons of the next frame.

        Args:
            result: the frame's poses.
            time_s: the frame's time in seconds, from any origin; None adds ``1 / fps`` to the last one.

        Returns:
            The result with ``track_ids`` (N,), numbered from 1, and smoothed joints.

        Raises:
            TypeError: ``result`` is not a :class:`PoseResult`.
            ValueError: the time is not finite or goes back; the skeleton differs from that of earlier frames.
        """
        if not isinstance(result, PoseResult):
            hint = ": bring it down by to_host()" if hasattr(result, "to_host") else ""
            message = f"a tracker takes a PoseResult, got {type(result).__name__}{hint}"
            raise TypeError(message)
        last = self._time_s
        now = float(time_s) if time_s is not None else 0.0 if math.isinf(last) else last + 1 / self._fps
        if not math.isfinite(now):
            message = f"time_s must be finite, got {now}"
            raise ValueError(message)
        if now < last:
            message = f"time_s must not go back: {now:g} after {last:g}; another video takes another tracker"
            raise ValueError(message)
        if self._skeleton not in (None, result.skeleton):
            message = f"the tracker follows {self._skeleton.name}, and got joints of {result.skeleton.name}"
            raise ValueError(message)
        self._skeleton, self._time_s = result.skeleton, now
        self._tracks = [t for t in self._tracks if t.time_s == last or now - t.time_s <= self._patience_s]

        keypoints, boxes = result.keypoints.astype(np.float64), result.boxes.astype(np.float64)
        visible = result.visible & np.isfinite(keypoints).all(axis=2)
        known = self._recognised(keypoints, visible, boxes)
        numbers = np.zeros(len(result), np.int64)
        for person in range(len(result)):
            seen = (keypoints[person], visible[person], boxes[person])
            track = self._moved_on(known[person], *seen) if person in known else self._begun(*seen)
            numbers[person] = track.number
            if track.smoothing is not None:
                size = max(_LEAST_SIDE, float((track.box[2:] - track.box[:2]).max()))
                keypoints[person] = track.smoothing(*seen[:2], now, size)
        return replace(result, keypoints=keypoints.astype(np.float32), track_ids=numbers)

    def _recognised(
        self, keypoints: Doubles, visible: NDArray[np.bool_], boxes: Doubles
    ) -> dict[int, _Track]:
        """Match persons to tracks greedily, most similar pair first; maps a person's index to the track."""
        found: dict[int, _Track] = {}
        if not (self._tracks and len(boxes)):
            return found
        alike = self._likeness(np.where(visible[..., None], keypoints, 0.0), visible, boxes)
        alike[~np.isfinite(alike)] = -1  # boxes that are not finite match nothing
        while alike.max() > self._min_similarity:
            track, person = np.unravel_index(alike.argmax(), alike.shape)
            found[int(person)] = self._tracks[int(track)]
            alike[track], alike[:, person] = -1, -1
        return found

    def _likeness(self, keypoints: Doubles, visible: NDArray[np.bool_], boxes: Doubles) -> Doubles:
        """(T, N) similarity in [0, 1] of each person to each track, extrapolated to the current time."""
        assert self._skeleton is not None
        shift = np.stack([track.speed * (self._time_s - track.time_s) for track in self._tracks])
        before = np.stack([track.keypoints for track in self._tracks]) + shift[:, None]
        before_boxes = np.stack([track.box for track in self._tracks]) + np.tile(shift, 2)
        shared = np.stack([track.visible for track in self._tracks])[:, None] & visible  # (T, N, K)
        areas = (_area(before_boxes)[:, None] + _area(boxes)) / 2
        spread = 2 * (2 * np.array(self._skeleton.sigmas)) ** 2 * AREA_OF_BOX * areas[..., None]
        apart = np.where(shared, ((before[:, None] - keypoints) ** 2).sum(axis=3), np.inf)
        count = shared.sum(axis=2)
        oks = np.exp(-apart / spread).sum(axis=2) / np.maximum(1, count)
        overlap = _iou(before_boxes[:, None], boxes)
        return np.where(count >= _LEAST_SHARED, (oks + overlap) / 2, overlap)

    def _moved_on(
        self, track: _Track, keypoints: Doubles, visible: NDArray[np.bool_], box: Doubles
    ) -> _Track:
        step = self._time_s - track.time_s
        if step > 0:
            speed = (box - track.box).reshape(2, 2).mean(axis=0) / step
            track.speed = track.speed + (1 - math.exp(-step / _SPEED_S)) * (speed - track.speed)
        track.keypoints, track.visible, track.box, track.time_s = keypoints.copy(), visible, box, self._time_s
        return track

    def _begun(self, keypoints: Doubles, visible: NDArray[np.bool_], box: Doubles) -> _Track:
        self._given += 1
        smoothing = None
        if self._filter is not None:
            min_cutoff_hz, beta = self._filter
            smoothing = OneEuroFilter(len(keypoints), min_cutoff_hz=min_cutoff_hz, beta=beta)
        track = _Track(self._given, keypoints.copy(), visible, box, self._time_s, np.zeros(2), smoothing)
        if np.isfinite(box).all():
            self._tracks.append(track)
        return track


def _area(boxes: Doubles) -> Doubles:
    """Areas of boxes (..., 4), with sides of at least one pixel."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], _LEAST_SIDE)
    area: Doubles = sides[..., 0] * sides[..., 1]
    return area


def _iou(a: Doubles, b: Doubles) -> Doubles:
    """Intersection over union of boxes (..., 4) and (..., 4)."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = np.prod(np.maximum(sides, 0), axis=-1)
    iou: Doubles = inside / (_area(a) + _area(b) - inside)
    return iou
