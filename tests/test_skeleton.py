"""Joint sets: the tables against what their data sets publish, and the mirror pairs."""

from __future__ import annotations

import numpy as np
import pytest

from lfpose_edge.skeleton import COCO17, CROWDPOSE14, LSP14, MPII16, SKELETONS, Skeleton

EVERY = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())


@pytest.mark.parametrize(
    ("skeleton", "joints", "first", "last"),
    [
        pytest.param(LSP14, 14, "right_ankle", "head_top", id="lsp14"),
        pytest.param(COCO17, 17, "nose", "right_ankle", id="coco17"),
        pytest.param(MPII16, 16, "right_ankle", "left_wrist", id="mpii16"),
        pytest.param(CROWDPOSE14, 14, "left_shoulder", "neck", id="crowdpose14"),
    ],
)
def test_lengths_and_order(skeleton: Skeleton, joints: int, first: str, last: str) -> None:
    assert len(skeleton) == len(skeleton.keypoints) == len(skeleton.sigmas) == joints
    assert (skeleton.keypoints[0], skeleton.keypoints[-1]) == (first, last)
    assert SKELETONS[skeleton.name] is skeleton


PUBLISHED = {
    "lsp14": "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
    "right_shoulder left_shoulder left_elbow left_wrist neck head_top",
    "mpii16": "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck "
    "head_top right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    "crowdpose14": "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_hip "
    "right_hip left_knee right_knee left_ankle right_ankle head neck",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_joints_are_in_the_order_that_their_data_set_has(name: str) -> None:
    assert SKELETONS[name].keypoints == tuple(PUBLISHED[name].split())


def test_crowdposes_sigmas_are_its_own_and_leeds_are_the_same_joint_by_joint() -> None:
    # The evaluation code of CrowdPose, in tenths, of either side.
    parts = {"shoulder": 0.79, "elbow": 0.72, "wrist": 0.62, "hip": 1.07, "knee": 0.87, "ankle": 0.89}
    sides = {f"{side}_{part}": sigma for part, sigma in parts.items() for side in ("left", "right")}
    for skeleton, rest in ((CROWDPOSE14, ("head", "neck")), (LSP14, ("head_top", "neck"))):
        found = dict(zip(skeleton.keypoints, skeleton.sigmas, strict=True))
        expected = {**sides, **dict.fromkeys(rest, 0.79)}
        assert found == pytest.approx({joint: sigma / 10 for joint, sigma in expected.items()})


def test_coco_sigmas_are_those_of_cocoeval() -> None:
    # pycocotools.cocoeval.Params.setKpParams, in tenths.
    published = [
        0.26,
        0.25,
        0.25,
        0.35,
        0.35,
        0.79,
        0.79,
        0.72,
        0.72,
        0.62,
        0.62,
        1.07,
        1.07,
        0.87,
        0.87,
        0.89,
        0.89,
    ]
    np.testing.assert_allclose(COCO17.sigmas, np.array(published) / 10)


@EVERY
def test_flip_is_an_involution_that_swaps_sides_only(skeleton: Skeleton) -> None:
    flip = skeleton.flip_permutation
    np.testing.assert_array_equal(flip[flip], np.arange(len(skeleton)))
    for joint, mirror in zip(skeleton.keypoints, flip.tolist(), strict=True):
        swapped = {"left": "right", "right": "left"}.get(joint.split("_")[0])
        expected = joint if swapped is None else f"{swapped}_{joint.split('_', 1)[1]}"
        assert skeleton.keypoints[mirror] == expected


@EVERY
def test_edges_are_distinct_bones_between_two_joints(skeleton: Skeleton) -> None:
    edges = skeleton.edge_indices
    assert edges.shape == (len(skeleton.edges), 2)
    assert (edges[:, 0] != edges[:, 1]).all()
    assert len({frozenset(edge) for edge in edges.tolist()}) == len(edges)
    assert set(edges.ravel().tolist()) == set(range(len(skeleton))), "a joint hangs in the air"


@EVERY
def test_bones_and_sigmas_are_the_same_on_both_sides(skeleton: Skeleton) -> None:
    flip, sigmas = skeleton.flip_permutation, np.array(skeleton.sigmas)
    np.testing.assert_array_equal(sigmas, sigmas[flip])
    assert (sigmas > 0).all()
    bones = {frozenset(edge) for edge in skeleton.edge_indices.tolist()}
    assert {frozenset(flip[list(bone)].tolist()) for bone in bones} == bones


def test_index_by_name() -> None:
    assert [COCO17.index(joint) for joint in COCO17.keypoints] == list(range(17))


@pytest.mark.parametrize(
    ("joint", "hint"),
    [
        pytest.param("left_wirst", "did you mean 'left_wrist'", id="typing error"),
        pytest.param("LEFT-WRIST!!", "known: ", id="nothing near"),
    ],
)
def test_unknown_joint_says_what_was_meant(joint: str, hint: str) -> None:
    with pytest.raises(KeyError, match=hint):
        COCO17.index(joint)


@pytest.mark.parametrize(
    ("keypoints", "edges", "sigmas", "error", "text"),
    [
        pytest.param(("a", "a"), (), (0.1, 0.1), ValueError, "twice", id="joint named twice"),
        pytest.param(("a", "b"), (), (0.1,), ValueError, "2 joints and 1 sigmas", id="sigma missing"),
        pytest.param(("a", "b"), (("a", "c"),), (0.1, 0.1), KeyError, "no joint 'c'", id="bone to nowhere"),
    ],
)
def test_bad_tables_are_refused(
    keypoints: tuple[str, ...],
    edges: tuple[tuple[str, str], ...],
    sigmas: tuple[float, ...],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        Skeleton("odd", keypoints, edges, sigmas)


def test_a_skeleton_without_bones_has_an_empty_edge_table() -> None:
    assert Skeleton("dots", ("a", "b"), (), (0.1, 0.1)).edge_indices.shape == (0, 2)
