"""Draws poses on a copy of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.opencv import cv2
from lfpose_edge.results import LEAST_SCORE
from lfpose_edge.skeleton import Skeleton

if TYPE_CHECKING:
    from lfpose_edge.results import PoseResult

Color = Literal["bgr", "rgb"]
Side = Literal["left", "right", "centre"]

# Blue and orange are distinct under every common colour blindness (Okabe and Ito), and white from both.
_SIDE_RGB: dict[Side, tuple[int, int, int]] = {
    "left": (51, 168, 255),
    "right": (255, 149, 20),
    "centre": (244, 244, 244),
}
_OUTLINE_RGB = (24, 24, 27)

_FAR_PX = 1e7  # beyond any image; joints farther away would cost the bones' arithmetic its precision
_SHIFT = 4  # OpenCV's fixed-point coordinates: sixteenths of a pixel
_THICKNESS = 0.0125  # of the person's diagonal
_THINNEST_PX, _THICKEST_OF_IMAGE = 1.5, 0.012
_DIGIT_HEIGHT = 9.0  # in bone widths
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_poses(
    image: NDArray[np.uint8],
    result: PoseResult,
    *,
    color: Color = "bgr",
    joint_radius: float | None = None,
    thickness: float | None = None,
    boxes: bool = False,
    min_score: float = LEAST_SCORE,
) -> NDArray[np.uint8]:
    """Draw the bones and joints that are present and have a place, on a copy of the image.

    The person's left is blue, the right orange, the middle white, each with a dark edge that separates
    it from any background. A bone needs both of its joints. Nearer (larger) persons are drawn last. Tracked
    persons have their track id above them.

    Args:
        image: (H, W, 3) uint8, or (H, W, 4) with alpha, in the order of ``color``; or (H, W) or
            (H, W, 1) grey; the image that the poses were estimated in.
        result: the poses, in continuous pixels of that image.
        color: channel order of the image.
        joint_radius: pixels, at most the image's longer side; None follows the thickness.
        thickness: of the bones in pixels, at most the same; None follows each person's size.
        boxes: whether the person boxes are drawn as well.
        min_score: joints with a lower score are left out, since their position is unreliable.

    Returns:
        (H, W, 3) uint8 in the order of ``color``, or (H, W, 4) for an image with alpha.

    Raises:
        TypeError: the image is not uint8.
        ValueError: the image has another shape or size, a width is not positive, or the order is unknown.
    """
    for name, value in (("joint_radius", joint_radius), ("thickness", thickness)):
        if value is not None and not 0 < value < np.inf:
            message = f"{name} must be positive, got {value}"
            raise ValueError(message)
    if color not in ("bgr", "rgb"):
        message = f"color must be 'bgr' or 'rgb', got {color!r}"
        raise ValueError(message)
    canvas = _canvas(image, result.image_size)
    areas = np.prod(result.boxes[:, 2:] - result.boxes[:, :2], axis=1, dtype=np.float64)
    widest = float(max(canvas.shape[:2]))  # much larger values would overflow OpenCV's integers
    for i in np.argsort(areas, kind="stable").tolist():
        visible = (result.presence[i] >= result.presence_threshold) & (result.scores[i] >= min_score)
        visible &= np.isfinite(result.keypoints[i]).all(axis=1)
        points = np.clip(result.keypoints[i].astype(np.float64), -_FAR_PX, _FAR_PX)
        width = thickness or _bone_width(points[visible], result.boxes[i], canvas.shape[:2])
        width = min(width, widest)
        radius = min(joint_radius or 0.95 * width, widest)
        if boxes:
            _draw_box(canvas, result.boxes[i], width, color)
        _draw_person(canvas, points, visible, result.skeleton, width, radius, color)
        if result.track_ids is not None:
            corners = points[visible] if visible.any() else result.boxes[i].reshape(2, 2)
            _draw_number(canvas, int(result.track_ids[i]), corners, width, color)
    return canvas


def _canvas(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        came = getattr(image, "dtype", type(image).__name__)
        message = f"an image to draw on is a uint8 array, got {came}"
        raise TypeError(message)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        message = f"an image to draw on is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got shape {image.shape}"
        raise ValueError(message)
    if image.shape[:2] != tuple(image_size):
        message = (
            f"the image is {image.shape[0]}x{image.shape[1]}, but the poses are of a "
            f"{image_size[0]}x{image_size[1]} image (height x width); draw on the image that was estimated"
        )
        raise ValueError(message)
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.array(image, order="C")


def _bone_width(points: NDArray[np.float64], box: NDArray[np.float32], image_size: tuple[int, ...]) -> float:
    """Bone width in pixels, from the extent of the person's joints, or of the box if few are visible."""
    corners = points if len(points) > 2 else box.reshape(2, 2)
    diagonal = float(np.hypot(*np.ptp(corners, axis=0)))
    thickest = max(_THINNEST_PX, _THICKEST_OF_IMAGE * max(image_size))
    return float(np.clip(np.nan_to_num(_THICKNESS * diagonal), _THINNEST_PX, thickest))


def _draw_person(
    canvas: NDArray[np.uint8],
    points: NDArray[np.float64],
    visible: NDArray[np.bool_],
    skeleton: Skeleton,
    width: float,
    radius: float,
    color: Color,
) -> None:
    """Draw the edge first and colour on top, so that the edge surrounds the figure and crosses no joints."""
    names = skeleton.keypoints
    bones = [(a, b) for a, b in skeleton.edge_indices.tolist() if visible[a] and visible[b]]
    # Middle parts first: limbs cross the trunk, not the other way round.
    bones.sort(key=lambda bone: _bone_side(names[bone[0]], names[bone[1]]) != "centre")
    joints = np.flatnonzero(visible).tolist()
    edge = max(1.0, 0.35 * width)
    for grow in (edge, 0.0):
        for a, b in bones:
            side = _bone_side(names[a], names[b])
            ink = _ink(canvas, _OUTLINE_RGB if grow else _SIDE_RGB[side], color)
            _draw_bone(canvas, points[a], points[b], width / 2 + grow, ink)
        if grow:
            for k in joints:
                _draw_disc(canvas, points[k], radius + grow, _ink(canvas, _OUTLINE_RGB, color))
    for k in joints:
        # A thin dark ring separates each joint from its bones.
        _draw_disc(canvas, points[k], radius + edge / 2, _ink(canvas, _OUTLINE_RGB, color))
        _draw_disc(canvas, points[k], radius, _ink(canvas, _SIDE_RGB[_side(names[k])], color))


def _draw_bone(
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    half_width: float,
    ink: tuple[int, ...],
) -> None:
    """Draw a bar with square ends, as a polygon, because OpenCV's lines only have whole-pixel widths."""
    ends = _clip_segment(start, end, canvas.shape[:2], margin=2 * half_width)
    if ends is None:
        return
    along = ends[1] - ends[0]
    length = float(np.hypot(*along))
    if length < 1e-6:
        return
    across = np.array([-along[1], along[0]]) / length * half_width
    corners = np.stack([ends[0] + across, ends[1] + across, ends[1] - across, ends[0] - across])
    cv2.fillConvexPoly(canvas, _fixed(corners), ink, cv2.LINE_AA, _SHIFT)


def _draw_disc(
    canvas: NDArray[np.uint8], center: NDArray[np.float64], radius: float, ink: tuple[int, ...]
) -> None:
    height, width = canvas.shape[:2]
    if (np.abs(center - (width / 2, height / 2)) > (width / 2 + radius, height / 2 + radius)).any():
        return
    x, y = _fixed(center).tolist()
    cv2.circle(canvas, (x, y), round(radius * (1 << _SHIFT)), ink, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_box(canvas: NDArray[np.uint8], box: NDArray[np.float32], width: float, color: Color) -> None:
    if not np.isfinite(box).all():
        return
    height, breadth = canvas.shape[:2]
    x1, y1, x2, y2 = np.clip(box.astype(np.float64), 0, (breadth, height, breadth, height)).tolist()
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    line = max(1, round(0.35 * width))
    for rgb, grow in ((_OUTLINE_RGB, 2), (_SIDE_RGB["centre"], 0)):
        ink = _ink(canvas, rgb, color)
        cv2.polylines(canvas, [_fixed(corners)], True, ink, line + grow, cv2.LINE_AA, _SHIFT)


def _draw_number(
    canvas: NDArray[np.uint8], number: int, points: NDArray[np.floating], width: float, color: Color
) -> None:
    """Draw a number above the highest of some points, inside the canvas."""
    if not np.isfinite(points).all():
        return
    height, breadth = canvas.shape[:2]
    text, stroke = str(number), max(1, round(width / 2))
    size = _DIGIT_HEIGHT * max(width, _THINNEST_PX) / cv2.getTextSize("0", _FONT, 1.0, 1)[0][1]
    wide, tall = cv2.getTextSize(text, _FONT, size, stroke)[0]
    x, y = points[points[:, 1].argmin()].tolist()
    left = round(min(max(x - wide / 2, 0), max(0, breadth - wide)))
    bottom = round(min(max(y - 2 * width, tall), height))
    for rgb, grow in ((_OUTLINE_RGB, 2 * max(1, round(0.35 * width))), (_SIDE_RGB["centre"], 0)):
        ink = _ink(canvas, rgb, color)
        cv2.putText(canvas, text, (left, bottom), _FONT, size, ink, stroke + grow, cv2.LINE_AA)


def _clip_segment(
    start: NDArray[np.float64], end: NDArray[np.float64], image_size: tuple[int, ...], margin: float
) -> NDArray[np.float64] | None:
    """The part, (2, 2), of a segment inside the image grown by a margin (Liang and Barsky), or None.

    OpenCV's integers overflow far outside the image, and a stray joint must not cause a huge fill.
    """
    low = np.full(2, -margin)
    high = np.array([image_size[1], image_size[0]]) + margin
    direction = end - start
    first, last = 0.0, 1.0
    for axis in (0, 1):
        if direction[axis] == 0:
            if not low[axis] <= start[axis] <= high[axis]:
                return None
            continue
        enter, leave = sorted((bound[axis] - start[axis]) / direction[axis] for bound in (low, high))
        first, last = max(first, enter), min(last, leave)
    if first > last:
        return None
    clipped: NDArray[np.float64] = start + np.array([[first], [last]]) * direction
    return clipped


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Continuous coordinates to OpenCV's fixed-point ones, where pixel centres are whole numbers."""
    return np.rint((points - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _ink(canvas: NDArray[np.uint8], rgb: tuple[int, int, int], color: Color) -> tuple[int, ...]:
    ordered = rgb if color == "rgb" else rgb[::-1]
    return (*ordered, 255)[: canvas.shape[2]]


def _side(joint: str) -> Side:
    if joint.startswith("left_"):
        return "left"
    return "right" if joint.startswith("right_") else "centre"


def _bone_side(a: str, b: str) -> Side:
    """The side of a bone; a middle joint takes the other's side, and bones across the body are centre."""
    sides: list[Any] = sorted({_side(a), _side(b)} - {"centre"})
    return sides[0] if len(sides) == 1 else "centre"
