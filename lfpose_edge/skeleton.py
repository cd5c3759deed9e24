"""Joint sets: names, the bones that join them, mirror pairs, and OKS sigmas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.errors import did_you_mean


@dataclass(frozen=True)
class Skeleton:
    """A set of K named joints.

    Left and right are the person's own.

    Attributes:
        name: the joint set's name, such as ``"coco17"``.
        keypoints: K joint names.
        edges: pairs of joint names connected by a bone.
        sigmas: K object-keypoint-similarity constants (COCO's sigma; OKS uses kappa = 2 sigma).
    """

    name: str
    keypoints: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(set(self.keypoints)) != len(self.keypoints):
            message = f"skeleton {self.name!r} names a joint twice"
            raise ValueError(message)
        if len(self.sigmas) != len(self.keypoints):
            message = f"skeleton {self.name!r} has {len(self.keypoints)} joints and {len(self.sigmas)} sigmas"
            raise ValueError(message)
        for pair in self.edges:
            for joint in pair:
                self.index(joint)

    def __len__(self) -> int:
        return len(self.keypoints)

    def index(self, joint: str) -> int:
        """The position of a joint by its name; a KeyError for an unknown name suggests the nearest one."""
        try:
            return self._positions[joint]
        except KeyError:
            message = f"no joint {joint!r} in skeleton {self.name!r}; {did_you_mean(joint, self.keypoints)}"
            raise KeyError(message) from None

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {joint: i for i, joint in enumerate(self.keypoints)}

    @cached_property
    def edge_indices(self) -> NDArray[np.int64]:
        """(E, 2) joint positions of the bones."""
        pairs = [(self.index(a), self.index(b)) for a, b in self.edges]
        return np.array(pairs, np.int64).reshape(-1, 2)

    @cached_property
    def flip_permutation(self) -> NDArray[np.int64]:
        """(K,) the position of each joint's mirror joint (its own if it has none)."""
        mirrored = [_mirror_name(joint) for joint in self.keypoints]
        return np.array([self._positions.get(m, i) for i, m in enumerate(mirrored)], np.int64)


def _mirror_name(joint: str) -> str:
    side, _, rest = joint.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, joint)


_LIMBS = (
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
)
_TRUNK = (("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), ("left_hip", "right_hip"))

# Leeds Sports Pose has no OKS sigmas of its own: these are CrowdPose's, joint by joint.
LSP14 = Skeleton(
    name="lsp14",
    keypoints=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "neck",
        "head_top",
    ),
    edges=(
        *_LIMBS,
        *_TRUNK,
        ("neck", "left_shoulder"),
        ("neck", "right_shoulder"),
        ("neck", "head_top"),
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
)

COCO17 = Skeleton(
    name="coco17",
    keypoints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    edges=(
        *_LIMBS,
        *_TRUNK,
        ("left_shoulder", "right_shoulder"),
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_ear", "left_shoulder"),
        ("right_ear", "right_shoulder"),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)

MPII16 = Skeleton(
    name="mpii16",
    keypoints=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    edges=(
        *_LIMBS,
        ("left_hip", "pelvis"),
        ("right_hip", "pelvis"),
        ("pelvis", "thorax"),
        ("thorax", "left_shoulder"),
        ("thorax", "right_shoulder"),
        ("thorax", "upper_neck"),
        ("upper_neck", "head_top"),
    ),
    sigmas=(
        *(0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026),
        *(0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072, 0.062),
    ),
)

CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    keypoints=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    ),
    edges=(
        *_LIMBS,
        *_TRUNK,
        ("neck", "left_shoulder"),
        ("neck", "right_shoulder"),
        ("neck", "head"),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)

SKELETONS = {s.name: s for s in (LSP14, COCO17, MPII16, CROWDPOSE14)}
