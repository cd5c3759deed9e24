"""What an estimator returns: frozen dataclasses of arrays, one row per person."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.leaving import CALLS
from lfpose_edge.skeleton import Skeleton

if TYPE_CHECKING:
    import pandas

    from lfpose_edge._cuda import DeviceArray

Floats = NDArray[np.float32]


COUNTED_SCORE = 0.2
"""Joints must score higher to count in the person's score, which evaluations rank by, as in HRNet, MMPose."""


LEAST_SCORE = 0.1
"""Joints that score lower are not visible whatever their presence: their map is empty, its peak arbitrary."""


def person_scores(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Person scores (N,) from joint scores (N, K): the mean of those above ``COUNTED_SCORE``, 0 if none."""
    counted = scores > COUNTED_SCORE
    mean = np.where(counted, scores, 0.0).sum(axis=1) / np.maximum(1, counted.sum(axis=1))
    return np.asarray(mean, np.float64)


@dataclass(frozen=True)
class StageTimings:
    """Wall-clock milliseconds of one frame, stage by stage.

    Attributes:
        read_ms: decoding the image; 0 for an array.
        detect_ms: finding persons; 0 when boxes were given.
        preprocess_ms: cutting and normalising the crops.
        infer_ms: the network.
        decode_ms: CAMs to joints.
    """

    read_ms: float = 0.0
    detect_ms: float = 0.0
    preprocess_ms: float = 0.0
    infer_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """The sum of all stages."""
        return float(sum(getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Joint:
    """One joint of one person.

    Attributes:
        x, y: continuous pixel coordinates in the original image (pixel centres are at + 0.5).
        score: the model's confidence in the position, in [0, 1].
        presence: how likely the joint is to be visible in the person's crop at all, in [0, 1].
        visible: as :attr:`PoseResult.visible`.
    """

    x: float
    y: float
    score: float
    presence: float
    visible: bool

    def __iter__(self) -> Iterator[float]:
        """Iterate over ``x, y, score, presence``, for unpacking."""
        return iter((self.x, self.y, self.score, self.presence))


@dataclass(frozen=True, eq=False)
class Pose:
    """One person: arrays over the K joints, and joints by name.

    Attributes:
        keypoints: (K, 2) float32, pixels of the original image.
        scores: (K,) float32 in [0, 1].
        presence: (K,) float32 in [0, 1].
        box: (4,) float32 x1, y1, x2, y2, pixels.
        box_score: in [0, 1].
        skeleton: the joints' names.
        score: the person's score, see :attr:`PoseResult.person_scores`.
        visible: (K,) bool, as :attr:`PoseResult.visible`.
        track_id: the person's number in a video; None without a tracker.
    """

    keypoints: Floats
    scores: Floats
    presence: Floats
    box: Floats
    box_score: float
    skeleton: Skeleton
    score: float
    visible: NDArray[np.bool_]
    track_id: int | None = None

    def __getitem__(self, joint: str) -> Joint:
        """A joint by its name; a KeyError for an unknown name suggests the nearest one."""
        if not isinstance(joint, str):
            message = (
                f"a joint is asked for by its name, such as {self.skeleton.keypoints[0]!r}, got {joint!r}"
            )
            raise TypeError(message)
        k = self.skeleton.index(joint)
        x, y = self.keypoints[k].tolist()
        return Joint(x, y, float(self.scores[k]), float(self.presence[k]), bool(self.visible[k]))

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.box.tolist())
        who = "" if self.track_id is None else f" {self.track_id}"
        return f"<Pose{who}: {len(self)} joints of {self.skeleton.name} in the box {box}>"

    def __len__(self) -> int:
        """The number of joints K."""
        return len(self.scores)

    def __iter__(self) -> Iterator[Joint]:
        """The joints in the skeleton's order."""
        return (self[joint] for joint in self.skeleton.keypoints)


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """The network's output for N persons, before decoding.

    Attributes:
        cams: (N, K, h, w) float32, class activation maps, logits.
        presence: (N, K) float32, presence logits.
        affines: (N, 2, 3) float64, from crop to image coordinates.
        crop_size: height and width of the crops, in pixels; a cell covers ``crop_size / (h, w)`` pixels.
    """

    cams: Floats
    presence: Floats
    affines: NDArray[np.float64]
    crop_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class DevicePoses:
    """The poses of N persons, in the memory of the GPU that found them.

    The arrays have ``__dlpack__`` and ``__cuda_array_interface__``, so torch, CuPy and others can use them
    without a copy (``torch.from_dlpack(poses.keypoints)``). The GPU may still be computing them when they are
    returned; the consumer's stream waits for that, not the host.

    Attributes:
        keypoints, scores, presence: as in :class:`PoseResult`, on the GPU.
        boxes, box_scores, skeleton, image_size, backend, presence_threshold: as in :class:`PoseResult`.
        timings: of the host's work only; they do not include waiting for the GPU.
    """

    keypoints: DeviceArray
    scores: DeviceArray
    presence: DeviceArray
    boxes: Floats
    box_scores: Floats
    skeleton: Skeleton
    image_size: tuple[int, int]
    timings: StageTimings = field(default_factory=StageTimings)
    backend: str = ""
    presence_threshold: float = 0.5

    def __len__(self) -> int:
        """The number of persons N."""
        return len(self.boxes)

    def to_host(self) -> PoseResult:
        """Wait for the poses and copy them to the host; BackendUnavailable if the GPU fails."""
        from lfpose_edge.ops.gpu import device_errors

        values = {f.name: getattr(self, f.name) for f in fields(self)}
        with CALLS, device_errors():
            joints = {name: values[name].numpy() for name in ("keypoints", "scores", "presence")}
        return PoseResult(**{**values, **joints})


@dataclass(frozen=True, eq=False)
class PoseResult:
    """The poses of N persons in one image; N may be 0.

    Coordinates are continuous pixels of the original image: the pixel in column j and row i covers
    [j, j + 1) x [i, i + 1).

    Attributes:
        keypoints: (N, K, 2) float32 x, y.
        scores: (N, K) float32 in [0, 1], the model's confidence in each joint's position.
        presence: (N, K) float32 in [0, 1], how likely each joint is to be visible at all.
        boxes: (N, 4) float32 x1, y1, x2, y2, clipped to the image.
        box_scores: (N,) float32 in [0, 1]; 1 for boxes given by the caller.
        skeleton: names and bones of the K joints.
        image_size: (height, width) in pixels.
        timings: milliseconds spent in each stage.
        backend: the engine that ran, as ``describe()`` names it.
        presence_threshold: joints with a lower presence count as absent in ``visible`` and when drawn.
        track_ids: (N,) int64, each person's number in a video, from a :class:`lfpose_edge.PoseTracker`.
    """

    keypoints: Floats
    scores: Floats
    presence: Floats
    boxes: Floats
    box_scores: Floats
    skeleton: Skeleton
    image_size: tuple[int, int]
    timings: StageTimings = field(default_factory=StageTimings)
    backend: str = ""
    presence_threshold: float = 0.5
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n, k = len(self.boxes), len(self.skeleton)
        expected = {
            "keypoints": (n, k, 2),
            "scores": (n, k),
            "presence": (n, k),
            "boxes": (n, 4),
            "box_scores": (n,),
        }
        if self.track_ids is not None:
            expected["track_ids"] = (n,)
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                message = f"{name} must have shape {shape} for {n} persons and {k} joints, got {got}"
                raise ValueError(message)

    @classmethod
    def empty(cls, skeleton: Skeleton, image_size: tuple[int, int], **rest: Any) -> PoseResult:
        """Make a result without persons."""
        k = len(skeleton)
        shapes = ((0, k, 2), (0, k), (0, k), (0, 4), (0,))
        keypoints, scores, presence, boxes, box_scores = (np.zeros(shape, np.float32) for shape in shapes)
        return cls(keypoints, scores, presence, boxes, box_scores, skeleton, image_size, **rest)

    def __repr__(self) -> str:
        height, width = self.image_size
        persons = "1 person" if len(self) == 1 else f"{len(self)} persons"
        return f"<PoseResult: {persons} of {self.skeleton.name} in {width}x{height} pixels, {self.backend}>"

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Pose]:
        return (self._pose(i) for i in range(len(self)))

    def __getitem__(self, index: SupportsIndex | slice | NDArray[Any] | list[Any] | str) -> Any:
        """Select persons, or a joint.

        An int gives a :class:`Pose`; a slice, a boolean mask or a list of ints a :class:`PoseResult`; the
        name of a joint a list of :class:`Joint`, one per person.

        Raises:
            IndexError: there is no such person.
            KeyError: the skeleton has no such joint.
        """
        if isinstance(index, str):
            self.skeleton.index(index)
            return [pose[index] for pose in self]
        # Every array has __index__, but only a 0-d one is a number.
        if isinstance(index, SupportsIndex) and not (isinstance(index, np.ndarray) and index.ndim):
            try:
                return self._pose(range(len(self))[index])
            except IndexError:
                message = f"no person {index.__index__()}: the result holds {len(self)}"
                raise IndexError(message) from None
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(chosen, slice) and chosen.size == 0:
            chosen = chosen.astype(np.intp)
        columns = {name: getattr(self, name) for name in _PER_PERSON}
        return replace(self, **{name: c[chosen] for name, c in columns.items() if c is not None})

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N, K) whether presence reaches ``presence_threshold`` and the score ``LEAST_SCORE``."""
        return (self.presence >= self.presence_threshold) & (self.scores >= LEAST_SCORE)

    @property
    def person_scores(self) -> NDArray[np.float64]:
        """(N,) the model's confidence in each person: the box score times the mean of the joint scores.

        Only joints above ``COUNTED_SCORE`` count; without any the mean is 0. Evaluations rank by this score,
        and it tells better than the joints' presence whether there is a person at all.
        """
        return self.box_scores * person_scores(self.scores)

    def draw(self, image: NDArray[np.uint8], **style: Any) -> NDArray[np.uint8]:
        """Draw the poses on a copy of the image; see :func:`lfpose_edge.draw.draw_poses`."""
        from lfpose_edge.draw import draw_poses

        return draw_poses(image, self, **style)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python values.

        ``image_size``, ``skeleton``, ``backend`` and ``persons``; each person has ``box``, ``box_score``,
        ``score``, ``joints`` (by name: ``x``, ``y``, ``score``, ``presence``, ``visible``) and, if tracked,
        ``track_id``.
        """
        persons = []
        for pose in self:
            who = {} if pose.track_id is None else {"track_id": pose.track_id}
            scores = {"box_score": pose.box_score, "score": pose.score}
            joints = {name: asdict(pose[name]) for name in self.skeleton.keypoints}
            persons.append({**who, "box": pose.box.tolist(), **scores, "joints": joints})
        return {
            "image_size": list(self.image_size),
            "skeleton": self.skeleton.name,
            "backend": self.backend,
            "persons": persons,
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_coco(self, image_id: SupportsIndex, *, category_id: SupportsIndex = 1) -> list[dict[str, Any]]:
        """Entries of a COCO keypoint results file.

        Coordinates become COCO's pixel indices (0.5 less). Absent joints are included, because COCO's
        evaluation expects a guess for every joint. Tracked persons have a ``track_id``, as in PoseTrack.
        """
        entries = []
        numbers = {"image_id": operator.index(image_id), "category_id": operator.index(category_id)}
        for pose in self:
            triples = np.column_stack([pose.keypoints - 0.5, pose.scores]).astype(float)
            x1, y1, x2, y2 = pose.box.tolist()
            entries.append(
                {
                    **numbers,
                    "keypoints": triples.ravel().tolist(),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": pose.score,
                    **({} if pose.track_id is None else {"track_id": pose.track_id}),
                }
            )
        return entries

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per joint: person, joint, x, y, score, presence, visible, and track_id if tracked.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            message = "to_dataframe needs pandas: pip install pandas"
            raise ImportError(message) from error
        n, k = self.scores.shape
        columns = {
            "person": np.repeat(np.arange(n), k),
            "joint": np.tile(np.array(self.skeleton.keypoints, dtype=object), n),
            "x": self.keypoints[..., 0].ravel(),
            "y": self.keypoints[..., 1].ravel(),
            "score": self.scores.ravel(),
            "presence": self.presence.ravel(),
            "visible": self.visible.ravel(),
        }
        if self.track_ids is not None:
            columns["track_id"] = np.repeat(self.track_ids, k)
        return pandas.DataFrame(columns)

    def _pose(self, i: int) -> Pose:
        return Pose(
            self.keypoints[i],
            self.scores[i],
            self.presence[i],
            self.boxes[i],
            float(self.box_scores[i]),
            self.skeleton,
            float(self.person_scores[i]),
            self.visible[i],
            None if self.track_ids is None else int(self.track_ids[i]),
        )


_PER_PERSON = ("keypoints", "scores", "presence", "boxes", "box_scores", "track_ids")
