"""Drawing: which pixels are touched, accuracy to a fraction of a pixel, and inputs that must not break it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge.draw import draw_poses
from lfpose_edge.results import PoseResult
from lfpose_edge.skeleton import LSP14

SIZE = (120, 160)
BLUE, ORANGE, WHITE = (51, 168, 255), (255, 149, 20), (244, 244, 244)  # RGB


def person(
    joints: dict[str, tuple[float, float]], box: Any = (20, 10, 140, 110), presence: float = 1
) -> PoseResult:
    """One person of whom only these joints are present."""
    keypoints, present = np.full((1, 14, 2), 5, np.float32), np.zeros((1, 14), np.float32)
    for joint, at in joints.items():
        keypoints[0, LSP14.index(joint)] = at
        present[0, LSP14.index(joint)] = presence
    ones = np.ones((1, 14), np.float32)
    return PoseResult(keypoints, ones, present, np.array([box], np.float32), ones[:, 0], LSP14, SIZE)


ARM = {"left_shoulder": (40.0, 30.0), "left_elbow": (100.0, 30.0)}


def grey(shade: int = 128) -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), shade, np.uint8)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) how much each pixel changed."""
    return np.abs(after.astype(float) - before).sum(axis=2)


def test_a_joint_without_a_place_is_left_out() -> None:
    result = person(ARM)
    result.scores[0, LSP14.index("left_elbow")] = 0.05
    image = grey()
    touched = changed(image, draw_poses(image, result))
    assert touched[30, 40] > 0
    assert (touched[:, 60:] == 0).all()
    assert changed(image, draw_poses(image, result, min_score=0.0))[30, 100] > 0


def test_draws_on_a_copy() -> None:
    image = grey()
    drawn = draw_poses(image, person(ARM))
    assert (image == 128).all()
    assert not np.shares_memory(image, drawn)
    assert (drawn != 128).any()


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(PoseResult.empty(LSP14, SIZE), id="nobody"),
        pytest.param(person({}), id="no joint present"),
        pytest.param(person(ARM, presence=0.49), id="presence below the threshold"),
    ],
)
def test_nothing_to_draw(result: PoseResult) -> None:
    np.testing.assert_array_equal(draw_poses(grey(), result), grey())


def test_presence_at_the_threshold_is_drawn() -> None:
    assert changed(grey(), draw_poses(grey(), person(ARM, presence=0.5))).any()


def test_a_bone_needs_both_joints() -> None:
    drawn = changed(grey(), draw_poses(grey(), person({"left_shoulder": ARM["left_shoulder"]})))
    assert drawn[30, 40] > 0
    assert (drawn[:, 50:] == 0).all()


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize(
    ("joints", "at", "ink"),
    [
        pytest.param(ARM, (70, 30), BLUE, id="left arm"),
        pytest.param({"right_knee": (40, 30), "right_ankle": (100, 30)}, (70, 30), ORANGE, id="right shin"),
        pytest.param({"right_hip": (40, 30), "left_hip": (100, 30)}, (70, 30), WHITE, id="hips"),
        pytest.param({"neck": (40, 30), "left_shoulder": (100, 30)}, (70, 30), BLUE, id="left collar bone"),
        pytest.param({"head_top": (40, 30)}, (40, 30), WHITE, id="head"),
        pytest.param({"right_wrist": (40, 30)}, (40, 30), ORANGE, id="right hand"),
    ],
)
def test_sides_have_their_colours(joints: Any, at: tuple[int, int], ink: tuple[int, ...], order: Any) -> None:
    drawn = draw_poses(grey(), person(joints), color=order, thickness=5)
    expected = ink if order == "rgb" else ink[::-1]
    assert tuple(drawn[at[1], at[0]].tolist()) == expected


@pytest.mark.parametrize("shade", [0, 24, 128, 244, 255])
def test_reads_on_any_background(shade: int) -> None:
    drawn = draw_poses(grey(shade), person({"neck": (40, 30), "head_top": (100, 30)}), thickness=5).astype(
        int
    )
    across = drawn[20:40, 70].mean(axis=1)
    assert np.ptp(across) > 150, "white bone, dark edge: one of them stands out"
    assert across[10] > 200


@pytest.mark.parametrize("x", [40.5, 40.75, 41.0, 41.25])
@pytest.mark.parametrize("y", [30.5, 30.25])
def test_joints_are_placed_to_a_fraction_of_a_pixel(x: float, y: float) -> None:
    black = grey(0)
    weight = changed(black, draw_poses(black, person({"neck": (x, y)}), joint_radius=4))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    centre = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    np.testing.assert_allclose(centre, (x, y), atol=0.1)


def test_bones_run_between_pixel_centres() -> None:
    black = grey(0)
    weight = changed(
        black, draw_poses(black, person({"neck": (40, 30.25), "head_top": (100, 30.25)}), thickness=4)
    )
    column = weight[:, 70]
    assert ((np.arange(SIZE[0]) + 0.5) * column).sum() / column.sum() == pytest.approx(30.25, abs=0.1)


def test_width_follows_the_person() -> None:
    def width_of_arm(scale: float) -> int:
        box, joints = np.array((0, 0, 400, 800)) * scale, {}
        for joint, at in {**ARM, "right_ankle": (100, 400)}.items():
            joints[joint] = (at[0] * scale, at[1] * scale)
        result = person(joints, box)
        big = np.zeros((900, 900, 3), np.uint8)
        drawn = draw_poses(big, PoseResult(**(vars(result) | {"image_size": big.shape[:2]})))
        return int((changed(big, drawn)[:, round(70 * scale)] > 0).sum())

    assert width_of_arm(2) > width_of_arm(1) + 1 > width_of_arm(0.3) + 1 >= 4


def test_given_widths_are_used() -> None:
    thin, thick = (changed(grey(), draw_poses(grey(), person(ARM), thickness=t))[:, 70] > 0 for t in (2, 9))
    assert thick.sum() >= thin.sum() + 6
    small, large = (
        changed(grey(), draw_poses(grey(), person({"neck": (40, 30)}), joint_radius=r)) > 0
        for r in (2.0, 6.5)
    )
    assert large.sum() > 3 * small.sum()


def test_larger_persons_are_drawn_last() -> None:
    near = person({"neck": (40, 30)}, (0, 0, 160, 120))
    far = person({"left_hip": (40, 30)}, (30, 20, 50, 40))
    both = {
        name: np.concatenate([getattr(near, name), getattr(far, name)])
        for name in ("keypoints", "scores", "presence", "boxes", "box_scores")
    }
    drawn = draw_poses(grey(), PoseResult(**both, skeleton=LSP14, image_size=SIZE), color="rgb")
    assert tuple(drawn[30, 40].tolist()) == WHITE


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        pytest.param(grey()[..., 0], (*SIZE, 3), id="grey"),
        pytest.param(grey()[..., :1], (*SIZE, 3), id="grey with an axis"),
        pytest.param(np.zeros((*SIZE, 4), np.uint8), (*SIZE, 4), id="alpha"),
        pytest.param(np.zeros((SIZE[0], SIZE[1] * 2, 3), np.uint8)[:, ::2], (*SIZE, 3), id="strided"),
        pytest.param(grey()[::-1, :, ::-1], (*SIZE, 3), id="negative strides"),
    ],
)
def test_kinds_of_image(image: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    drawn = draw_poses(image, person(ARM), thickness=5)
    assert drawn.shape == shape
    assert drawn.dtype == np.uint8
    assert tuple(drawn[30, 70, :3].tolist()) == BLUE[::-1]
    if shape[2] == 4:
        assert drawn[30, 70, 3] == 255
        assert drawn[100, 10, 3] == 0


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9, -1e9, 3e38, -3e38])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_wild_coordinates_are_safe(bad: float, axes: tuple[int, ...], boxes: bool) -> None:
    result = person({**ARM, "left_wrist": (90, 80), "neck": (60, 20)}, (20, 10, bad, 110))
    result.keypoints[0, LSP14.index("left_elbow"), axes] = bad
    drawn = changed(grey(), draw_poses(grey(), result, boxes=boxes))
    assert drawn[80, 90] > 0, "the sound joints are drawn still"
    assert (drawn > 0).mean() < 0.25, "no wild fill"


def test_a_bone_to_a_far_joint_keeps_its_direction() -> None:
    drawn = draw_poses(grey(), person({"left_shoulder": (10, 10), "left_elbow": (1e7, 1e7)}), thickness=3)
    assert tuple(drawn[100, 100].tolist()) == BLUE[::-1]
    assert tuple(drawn[100, 60].tolist()) == (128, 128, 128)


@pytest.mark.parametrize("huge", [1e4, 1e6, 1e300])
@pytest.mark.parametrize("what", ["thickness", "joint_radius"])
def test_a_huge_width_is_as_wide_as_the_image(what: str, huge: float) -> None:
    drawn, widest = (draw_poses(grey(), person(ARM), boxes=True, **{what: v}) for v in (huge, max(SIZE)))
    assert (drawn == widest).all()
    assert (drawn != 128).any()


def test_boxes_are_drawn_on_request() -> None:
    result = person({}, (20, 10, 140, 110))
    drawn = changed(grey(), draw_poses(grey(), result, boxes=True)) > 0
    assert drawn[60, [19, 20, 139, 140]].all()
    assert drawn[[9, 10, 109, 110], 80].all()
    assert not drawn[60, 80]


@pytest.mark.parametrize(
    ("image", "style", "error", "text"),
    [
        pytest.param(grey().astype(float), {}, TypeError, "uint8 array, got float64", id="floats"),
        pytest.param("photo.jpg", {}, TypeError, "got str", id="path"),
        pytest.param(
            np.zeros((*SIZE, 2), np.uint8), {}, ValueError, r"got shape \(120, 160, 2\)", id="channels"
        ),
        pytest.param(np.zeros((60, 80, 3), np.uint8), {}, ValueError, "60x80, but", id="another size"),
        pytest.param(grey(), {"thickness": 0}, ValueError, "thickness must be positive", id="no thickness"),
        pytest.param(grey(), {"joint_radius": -1}, ValueError, "joint_radius must be", id="negative radius"),
        pytest.param(grey(), {"thickness": np.nan}, ValueError, "thickness must be", id="NaN"),
        pytest.param(grey(), {"color": "hsv"}, ValueError, "color must be 'bgr' or 'rgb'", id="colour order"),
    ],
)
def test_bad_arguments(image: Any, style: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        draw_poses(image, person(ARM), **style)


@pytest.mark.parametrize(
    ("joints", "box"),
    [
        pytest.param({"head_top": (80, 60), "neck": (80, 80)}, (40, 40, 120, 118), id="above the head"),
        pytest.param({"head_top": (1, 1), "neck": (1, 20)}, (0, 0, 60, 60), id="in the upper left corner"),
        pytest.param(
            {"head_top": (159, 119), "neck": (150, 119)}, (90, 60, 160, 120), id="in the lower right"
        ),
        pytest.param({}, (40, 40, 120, 118), id="of a box without joints"),
    ],
)
def test_who_is_followed_has_their_number_above_them(joints: Any, box: Any) -> None:
    one, image = person(joints, box), grey()
    plain = draw_poses(image, one)
    numbers = [draw_poses(image, replace(one, track_ids=np.array([n]))) for n in (1, 2888)]
    rows, columns = np.nonzero(changed(plain, numbers[1]))
    assert len(rows) > np.count_nonzero(changed(plain, numbers[0])) > 20
    anchor = min((at for at in joints.values()), key=lambda at: at[1], default=(40, 40))
    assert rows.min() >= 0
    assert abs(rows.mean() - anchor[1]) < 40
    assert rows.max() <= max(anchor[1], 20)
    assert columns.max() - columns.min() > 25  # all digits are on the picture


def test_numbers_far_outside_and_of_no_place_are_left_out() -> None:
    one = replace(person({"neck": (1e6, -1e6)}), track_ids=np.array([3]))
    assert draw_poses(grey(), one).shape == (*SIZE, 3)
    nowhere = replace(person({}, box=(np.nan,) * 4), track_ids=np.array([3]))
    assert (draw_poses(grey(), nowhere) == grey()).all()
