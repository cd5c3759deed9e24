"""YOLOX: decoding against networks whose raw output is written by hand, and recall of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge.detection import YoloxDetector, resolve_detector
from lfpose_edge.errors import BundleError

SIDE = 64  # input of the hand-made networks: 8 x 8 + 4 x 4 + 2 x 2 cells
ANCHORS = 84
FIRST = {8: 0, 16: 64, 32: 80}  # of each stride, its first cell


def write_network(
    path: Path,
    rows: dict[int, list[float]],
    *,
    classes: int = 1,
    input_shape: tuple[Any, ...] = (1, 3, SIDE, SIDE),
    output_shape: tuple[int, ...] | None = None,
    lit_by_channel_0: int | None = None,
    dtype: type = np.float32,
) -> Path:
    """A network that gives fixed raw rows; one cell's objectness may follow the mean of input channel 0."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to write a network")
    from onnx import helper, numpy_helper

    raw = np.zeros((1, ANCHORS, 5 + classes), dtype)
    gain = np.zeros_like(raw)
    for cell, row in rows.items():
        raw[0, cell] = row
    if lit_by_channel_0 is not None:
        gain[0, lit_by_channel_0, 4] = 1 / 255
    if output_shape is not None:
        raw = gain = np.zeros(output_shape, dtype)
    element = helper.np_dtype_to_tensor_dtype(raw.dtype)
    constants = [
        numpy_helper.from_array(raw, "raw"),
        numpy_helper.from_array(gain, "gain"),
        numpy_helper.from_array(np.array(0), "zero"),
    ]
    nodes = [
        helper.make_node("Gather", ["images", "zero"], ["blue"], axis=1),
        helper.make_node("ReduceMean", ["blue"], ["light"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Mul", ["gain", "light"], ["lit"]),
        helper.make_node("Add", ["raw", "lit"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolox",
        [helper.make_tensor_value_info("images", element, input_shape)],
        [helper.make_tensor_value_info("output", element, raw.shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def row(dx: float, dy: float, width: float, height: float, *probabilities: float) -> list[float]:
    """A raw row: centre and extent in strides, objectness, classes."""
    return [dx, dy, float(np.log(width)), float(np.log(height)), *probabilities]


def black(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("stride", "cell", "expected"),
    [
        pytest.param(8, (3, 2), [22, 18, 30, 22], id="stride 8"),
        pytest.param(16, (1, 2), [12, 36, 28, 44], id="stride 16"),
        pytest.param(32, (1, 0), [24, 8, 56, 24], id="stride 32"),
    ],
)
def test_grid_decode(tmp_path: Path, stride: int, cell: tuple[int, int], expected: list[float]) -> None:
    anchor = FIRST[stride] + cell[1] * (SIDE // stride) + cell[0]
    path = write_network(tmp_path / "n.onnx", {anchor: row(0.25, 0.5, 1, 0.5, 0.9, 0.8)})
    boxes, scores = YoloxDetector(path)(black())
    np.testing.assert_allclose(boxes, [expected], atol=1e-4)
    np.testing.assert_allclose(scores, [0.72], rtol=1e-6)
    assert boxes.dtype == scores.dtype == np.float32


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(64, 64, 1), (128, 128, 2), (64, 256, 4), (192, 64, 3), (32, 32, 0.5), (33, 128, 2)],
)
def test_boxes_come_back_in_image_pixels(tmp_path: Path, height: int, width: int, scale: float) -> None:
    path = write_network(tmp_path / "n.onnx", {0: row(0.5, 0.5, 0.5, 0.5, 1, 1)})
    boxes, _ = YoloxDetector(path)(black(height, width))
    np.testing.assert_allclose(boxes, np.array([[2, 2, 6, 6]]) * scale, atol=1e-4)


def test_boxes_are_clipped_and_those_in_the_padding_left_out(tmp_path: Path) -> None:
    rows = {
        0: row(0, 0, 2, 2, 1, 0.9),  # over the top left corner
        FIRST[8] + 3 * 8 + 7: row(0.5, 0.5, 2, 3, 1, 0.8),  # over the right side and the lower one
        FIRST[8] + 7 * 8 + 4: row(0.5, 0.5, 1, 1, 1, 0.7),  # in the padding under the 64 x 32 image
    }
    boxes, scores = YoloxDetector(write_network(tmp_path / "n.onnx", rows))(black(32, 64))
    np.testing.assert_allclose(boxes, [[0, 0, 8, 8], [52, 16, 64, 32]], atol=1e-4)
    np.testing.assert_allclose(scores, [0.9, 0.8], rtol=1e-6)


def test_best_first_and_overlaps_suppressed(tmp_path: Path) -> None:
    rows = {
        0: row(0.5, 0.5, 1, 1, 1, 0.5),
        9: row(0.5, 0.5, 1, 1, 1, 0.9),  # one cell down, one right
        10: row(-0.4, 0.5, 1, 1, 1, 0.6),  # nearly the same box as cell 9's
        40: row(0.5, 0.5, 1, 1, 1, 0.7),
    }
    path = write_network(tmp_path / "n.onnx", rows)
    _, scores = YoloxDetector(path)(black())
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.5], rtol=1e-6)
    _, scores = YoloxDetector(path, iou_threshold=0.95)(black())
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.6, 0.5], rtol=1e-6)


def test_neighbours_far_from_the_corner_both_stay(tmp_path: Path) -> None:
    rows = {54: row(0.5, 0.5, 0.5, 0.5, 1, 0.9), 55: row(0.25, 0.5, 0.5, 0.5, 1, 0.8)}
    boxes, _ = YoloxDetector(write_network(tmp_path / "n.onnx", rows))(black())
    np.testing.assert_allclose(boxes, [[50, 50, 54, 54], [56, 50, 60, 54]], atol=1e-4)


@pytest.mark.parametrize(("threshold", "found"), [(0.5, 1), (0.51, 0), (0.0, ANCHORS)])
def test_score_threshold(tmp_path: Path, threshold: float, found: int) -> None:
    rows = {cell: row(0.5, 0.5, 0.5, 0.5, 0.1, 0.1) for cell in range(ANCHORS)}
    rows[5] = row(0.5, 0.5, 0.5, 0.5, 1.0, 0.5)
    path = write_network(tmp_path / "n.onnx", rows)
    boxes, scores = YoloxDetector(path, score_threshold=threshold, iou_threshold=1.0)(black())
    assert boxes.shape == (found, 4)
    assert scores.shape == (found,)


def test_only_the_person_class_counts(tmp_path: Path) -> None:
    rows = {0: row(0.5, 0.5, 1, 1, 1, 0.9, 0.1, 0.1), 40: row(0.5, 0.5, 1, 1, 1, 0.1, 0.1, 0.8)}
    path = write_network(tmp_path / "n.onnx", rows, classes=3)
    assert YoloxDetector(path).num_classes == 3
    np.testing.assert_allclose(YoloxDetector(path)(black())[1], [0.9], rtol=1e-6)
    np.testing.assert_allclose(YoloxDetector(path, person_class=2)(black())[1], [0.8], rtol=1e-6)


def test_an_absurd_extent_neither_overflows_nor_leaves_the_image(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx", {20: [0.5, 0.5, 500.0, 500.0, 1, 1]})
    np.testing.assert_array_equal(YoloxDetector(path)(black(32, 64))[0], [[0, 0, 64, 32]])


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize(("name", "found"), [("blue", 1), ("red", 0)])
def test_the_network_gets_bgr(tmp_path: Path, order: Any, name: str, found: int) -> None:
    path = write_network(tmp_path / "n.onnx", {0: row(0.5, 0.5, 1, 1, 0, 1)}, lit_by_channel_0=0)
    image = black()
    image[..., order.index(name[0])] = 255
    boxes, _ = YoloxDetector(path, color=order, score_threshold=0.9)(image)
    assert len(boxes) == found


def test_the_network_gets_0_to_255_and_grey_padding(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx", {0: row(0.5, 0.5, 1, 1, 0, 1)}, lit_by_channel_0=0)
    detector = YoloxDetector(path, score_threshold=0.0, iou_threshold=1.0)
    np.testing.assert_allclose(detector(np.full_like(black(), 200))[1].max(), 200 / 255, rtol=1e-5)
    # Half of the input is padding; bilinear sampling may soften the one row of pixels at the seam.
    np.testing.assert_allclose(detector(black(32, 64))[1].max(), 114 / 255 / 2, atol=0.01)


@pytest.mark.parametrize(
    "shape", [(SIDE, SIDE), (SIDE, SIDE, 1), (SIDE, SIDE, 4)], ids=["grey", "axis", "alpha"]
)
def test_other_kinds_of_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_network(tmp_path / "n.onnx", {0: row(0.5, 0.5, 1, 1, 0, 1)}, lit_by_channel_0=0)
    _, scores = YoloxDetector(path)(np.full(shape, 204, np.uint8))
    np.testing.assert_allclose(scores, [0.8], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param(
            {"output_shape": (1, 85, 22, 22)}, r"\(1, 84, 5 \+ classes\), got \(1, 85, 22, 22\)", id="map"
        ),
        pytest.param({"output_shape": (1, 84, 5)}, r"got \(1, 84, 5\)", id="no class"),
        pytest.param({"output_shape": (1, 100, 6)}, r"got \(1, 100, 6\)", id="other strides"),
        pytest.param({"input_shape": (1, 1, SIDE, SIDE)}, r"input \(1, 3, height, width\)", id="grey input"),
        pytest.param({"input_shape": (1, 3, "h", "w")}, "fixed", id="size left open"),
        pytest.param({"input_shape": (1, 3, 60, 60)}, "multiples of 32", id="odd size"),
        pytest.param({"input_shape": (4, 3, SIDE, SIDE)}, r"got .* \[4, 3, ", id="a batch of 4"),
        pytest.param({"dtype": np.float16}, r"float32 input .* tensor\(float16\)", id="half"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = write_network(tmp_path / "other.onnx", {}, **options)
    with pytest.raises(BundleError, match=text) as caught:
        YoloxDetector(path)
    assert "other.onnx is no YOLOX detector" in str(caught.value)


def test_a_network_that_decodes_its_boxes_is_refused(tmp_path: Path) -> None:
    rows, cell = {}, 0
    for stride in (8, 16, 32):
        for y in range(SIDE // stride):
            for x in range(SIDE // stride):
                rows[cell] = [(x + 0.5) * stride, (y + 0.5) * stride, 20.0, 30.0, 0.0, 0.0]
                cell += 1
    path = write_network(tmp_path / "n.onnx", rows)
    with pytest.raises(BundleError, match="decodes its boxes itself.*--decode_in_inference"):
        YoloxDetector(path)


def test_threads_are_the_networks(tmp_path: Path) -> None:
    detector = YoloxDetector(write_network(tmp_path / "n.onnx", {}), threads=2)
    assert detector._session.get_session_options().intra_op_num_threads == 2


def test_a_batch_axis_left_open_is_fine(tmp_path: Path) -> None:
    path = write_network(
        tmp_path / "n.onnx", {0: row(0.5, 0.5, 1, 1, 1, 1)}, input_shape=("n", 3, SIDE, SIDE)
    )
    assert len(YoloxDetector(path)(black())[0]) == 1


@pytest.mark.parametrize(("content", "text"), [(None, "no detector at"), (b"not a model", "cannot load")])
def test_unreadable_files(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=text):
        YoloxDetector(path)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ({"score_threshold": 1.5}, r"score_threshold must be a number in \[0, 1\]"),
        ({"score_threshold": "a"}, "score_threshold must be a number"),
        ({"iou_threshold": -0.1}, r"iou_threshold must be a number in \[0, 1\]"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"color": "grey"}, "color must be"),
        ({"person_class": 1}, r"person_class must be in \[0, 0\]"),
        ({"person_class": -1}, "person_class must be in"),
        ({"person_class": 0.5}, "person_class must be in"),
        ({"person_class": False}, "person_class must be in"),
    ],
)
def test_bad_arguments(tmp_path: Path, argument: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        YoloxDetector(write_network(tmp_path / "n.onnx", {}), **argument)


def test_resolved_by_path_and_checked_for_colour(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx", {})
    for spec in (path, str(path)):
        detector = resolve_detector(spec, color="rgb", threads=1)
        assert isinstance(detector, YoloxDetector)
        assert detector.color == "rgb"
    assert resolve_detector(detector, color="rgb") is detector
    with pytest.raises(ValueError, match="takes rgb images, not bgr"):
        resolve_detector(detector, color="bgr")


@pytest.mark.parametrize(
    ("name", "classes", "size", "least_recall", "most_false"),
    [
        # Measured: 0.698 of 86 persons with joints, 13 false boxes in 80 images; and 0.535, 17.
        pytest.param("yolox_nano", 80, (416, 416), 0.66, 16, id="yolox_nano"),
        pytest.param("kazuhito_person_detection", 1, (192, 192), 0.50, 20, id="person 192"),
    ],
)
def test_real_networks_find_people(
    shared_data: Path, name: str, classes: int, size: tuple[int, int], least_recall: float, most_false: int
) -> None:
    detector = YoloxDetector(shared_data / f"models/detectors/{name}.onnx", threads=1)
    assert (detector.num_classes, detector.input_size) == (classes, size)
    coco = json.loads((shared_data / "data/coco_mini/train.json").read_text(encoding="utf-8"))
    found: list[bool] = []
    false = 0
    for entry in coco["images"]:
        image = cv2.imread(str(shared_data / "data/coco_mini/images" / entry["file_name"]))
        people = [a for a in coco["annotations"] if a["image_id"] == entry["id"]]
        boxes, _ = detector(image)
        iou, inside = overlaps(boxes, [a["bbox"] for a in people])
        found += [bool((iou[:, j] >= 0.5).any()) for j, a in enumerate(people) if a["num_keypoints"]]
        crowd = np.array([a["iscrowd"] for a in people], bool)
        false += int((~((iou >= 0.5).any(axis=1) | (inside[:, crowd] >= 0.5).any(axis=1))).sum())
    assert np.mean(found) >= least_recall
    assert false <= most_false


def test_real_network_sees_the_same_in_both_orders(shared_data: Path) -> None:
    path = shared_data / "models/detectors/yolox_nano.onnx"
    image = cv2.imread(str(shared_data / "data/coco_mini/images/000000000790.jpg"))
    bgr = YoloxDetector(path, threads=1)(image)
    rgb = YoloxDetector(path, color="rgb", threads=1)(np.ascontiguousarray(image[..., ::-1]))
    assert len(bgr[0])
    for one, other in zip(bgr, rgb, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_family_is_refused_with_what_was_expected(shared_data: Path) -> None:
    with pytest.raises(BundleError, match=r"FastestDet.onnx is no YOLOX.*\(1, 2541, 5 \+ classes\), got"):
        YoloxDetector(shared_data / "models/detectors/FastestDet.onnx")


def overlaps(boxes: NDArray[np.float32], xywh: list[list[float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For N boxes and M ground-truth boxes, (N, M): IoU, and the share of the box inside the true one."""
    truth = np.reshape(xywh, (-1, 4)).astype(float)
    truth[:, 2:] += truth[:, :2]
    top_left = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    common = np.clip(np.minimum(boxes[:, None, 2:], truth[None, :, 2:]) - top_left, 0, None).prod(axis=2)
    area, true_area = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, truth))
    return common / (area[:, None] + true_area[None] - common), common / area[:, None]
