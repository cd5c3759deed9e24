"""The crop affine: properties over random boxes, and the written convention on cases done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpose_edge import ops
from lfpose_edge.geometry import apply_affine, crop_affines, inside_image, invert_affine, letterbox_affine

SIZES = st.tuples(st.integers(16, 512), st.integers(16, 512))  # crop height, width
ANGLES = st.floats(-180, 180)


@st.composite
def person_boxes(draw: st.DrawFn) -> list[float]:
    """x1, y1, x2, y2 within images of up to 8000 px, from a few pixels to all of it."""
    x, y = draw(st.floats(-500, 8000)), draw(st.floats(-500, 8000))
    return [x, y, x + draw(st.floats(2, 8000)), y + draw(st.floats(2, 8000))]


@given(person_boxes(), SIZES, ANGLES, st.booleans(), st.floats(1, 2), st.integers(0, 2**32 - 1))
def test_round_trip_within_a_thousandth_of_a_pixel(
    box: list[float], size: tuple[int, int], angle: float, flip: bool, padding: float, seed: int
) -> None:
    affine = crop_affines([box], size, padding=padding, rotation_deg=angle, flip=flip)
    crop = np.random.default_rng(seed).uniform((0, 0), (size[1], size[0]), (1, 32, 2))
    image = apply_affine(affine, crop)
    np.testing.assert_allclose(apply_affine(invert_affine(affine), image), crop, rtol=0, atol=1e-3)
    back = apply_affine(affine, apply_affine(invert_affine(affine), image))
    np.testing.assert_allclose(back, image, rtol=0, atol=1e-3)


@given(person_boxes(), SIZES, ANGLES, st.booleans())
def test_aspect_is_preserved(box: list[float], size: tuple[int, int], angle: float, flip: bool) -> None:
    linear = crop_affines([box], size, rotation_deg=angle, flip=flip)[0, :, :2]
    gram = linear.T @ linear  # a multiple of the identity for a turn, a mirror and one scale
    np.testing.assert_allclose(gram, np.eye(2) * gram[0, 0], rtol=0, atol=1e-9 * gram[0, 0])
    assert np.sign(np.linalg.det(linear)) == (-1 if flip else 1)


@given(person_boxes(), SIZES, ANGLES, st.booleans())
def test_box_centre_lies_at_the_crop_centre(
    box: list[float], size: tuple[int, int], angle: float, flip: bool
) -> None:
    affine = crop_affines([box], size, rotation_deg=angle, flip=flip)
    centre = apply_affine(affine, [[[size[1] / 2, size[0] / 2]]])[0, 0]
    np.testing.assert_allclose(centre, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], rtol=0, atol=1e-6)


@given(person_boxes(), SIZES, st.floats(1, 2))
def test_box_with_its_padding_just_fits(box: list[float], size: tuple[int, int], padding: float) -> None:
    to_crop = invert_affine(crop_affines([box], size, padding=padding))
    corners = apply_affine(to_crop, np.array(box).reshape(1, 2, 2))[0]
    share = (corners[1] - corners[0]) / (size[1], size[0])
    assert share.max() == pytest.approx(1 / padding)


@given(person_boxes(), SIZES, ANGLES)
def test_flip_mirrors_the_crop(box: list[float], size: tuple[int, int], angle: float) -> None:
    plain = crop_affines([box], size, rotation_deg=angle)
    mirrored = crop_affines([box], size, rotation_deg=angle, flip=True)
    points = np.array([[[0.5, 0.5], [3.0, 7.0], [size[1] - 0.5, size[0] - 0.5]]])
    reflected = points * (-1, 1) + (size[1], 0)
    np.testing.assert_allclose(
        apply_affine(mirrored, points), apply_affine(plain, reflected), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("angle", "crop_right_is"),
    [
        pytest.param(0, (1, 0), id="0: right"),
        pytest.param(90, (0, -1), id="90: up, counter-clockwise on the screen"),
        pytest.param(-90, (0, 1), id="-90: down"),
        pytest.param(180, (-1, 0), id="180: left"),
    ],
)
def test_rotation_direction(angle: float, crop_right_is: tuple[int, int]) -> None:
    affine = crop_affines([[0, 0, 100, 100]], (100, 100), padding=1, rotation_deg=angle)[0]
    np.testing.assert_allclose(affine[:, 0], crop_right_is, atol=1e-12)


def test_whole_image_at_its_own_size_is_the_identity() -> None:
    affine = crop_affines([[0, 0, 192, 256]], (256, 192), padding=1)
    np.testing.assert_array_equal(affine, [[[1, 0, 0], [0, 1, 0]]])


def test_each_box_has_its_own_turn_and_mirror() -> None:
    boxes = [[0, 0, 40, 80], [10, 20, 90, 50], [5, 5, 6, 6]]
    angles, flips = [10.0, -35.0, 0.0], [False, True, True]
    together = crop_affines(boxes, (64, 48), rotation_deg=angles, flip=flips)
    for i, box in enumerate(boxes):
        alone = crop_affines([box], (64, 48), rotation_deg=angles[i], flip=flips[i])
        np.testing.assert_array_equal(together[i], alone[0])


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.float32)], ids=["list", "array"])
def test_no_boxes_no_affines(boxes: object) -> None:
    affines = crop_affines(boxes, (64, 48))  # type: ignore[arg-type]
    assert affines.shape == (0, 2, 3)
    assert affines.dtype == np.float64


@given(SIZES, SIZES)
def test_letterbox_fits_the_image_at_the_top_left(image: tuple[int, int], size: tuple[int, int]) -> None:
    affine = letterbox_affine(image, size)
    assert affine.shape == (1, 2, 3)
    corners = apply_affine(invert_affine(affine), [[[0, 0], [image[1], image[0]]]])[0]
    np.testing.assert_allclose(corners[0], 0, atol=1e-9)
    share = corners[1] / (size[1], size[0])
    assert share.max() == pytest.approx(1)
    np.testing.assert_allclose(affine[0, 0, 0], affine[0, 1, 1])


def test_apply_affine_broadcasts() -> None:
    affines = crop_affines([[0, 0, 40, 80], [10, 20, 90, 50]], (64, 48))
    points = np.random.default_rng(0).uniform(0, 64, (5, 2))
    shared = apply_affine(affines, points)  # one set of points through two affines
    assert shared.shape == (2, 5, 2)
    for affine, row in zip(affines, shared, strict=True):
        np.testing.assert_allclose(row, points @ affine[:, :2].T + affine[:, 2])
        np.testing.assert_allclose(apply_affine(affine, points), row)


@pytest.mark.parametrize("angle", [0.0, 30.0, -100.0])
@pytest.mark.parametrize("side", [12, 40, 200])
def test_what_is_inside_the_image_has_nothing_of_the_border(side: int, angle: float) -> None:
    """In crops that enlarge the image and in such that reduce it."""
    image = np.full((side, side, 3), 100, np.uint8)
    affine = crop_affines([[0, 0, side, side]], (64, 48), padding=1.5, rotation_deg=angle)[0]
    crop = ops.preprocess(image, affine[None], (64, 48), dtype=np.uint8)[0]
    inside = inside_image(affine, (64, 48), (side, side))
    assert (crop[:, inside] == 100).all()
    beside = (crop == 0).all(axis=0)
    assert not (inside & beside).any()
    rim = ~inside & ~beside
    assert inside.sum() > 2 * rim.sum()


@pytest.mark.parametrize("angle", [0.0, 30.0, -100.0])
def test_a_pixel_is_inside_the_image_when_all_its_corners_are(angle: float) -> None:
    size, image = (20, 16), (30, 25)
    affine = crop_affines([[-3, 4, 14, 33]], size, rotation_deg=angle, flip=True)[0]
    corners = np.stack(np.meshgrid(np.arange(17), np.arange(21)), axis=2).reshape(-1, 2)
    at = apply_affine(affine, corners).reshape(21, 17, 2)
    within = np.all((at >= 0) & (at <= image[::-1]), axis=2)
    expected = within[:-1, :-1] & within[:-1, 1:] & within[1:, :-1] & within[1:, 1:]
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(inside_image(affine, size, image), expected)
