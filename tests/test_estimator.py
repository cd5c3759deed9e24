"""The estimator end to end, on a network whose joints are the brightest spot: where it looks is known."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import write_spot_bundle
from pictures import spots

from lfpose_edge import PoseEstimator, PoseResult, PoseTracker
from lfpose_edge.bundle import Bundle
from lfpose_edge.geometry import clip_boxes, crop_affines


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spot_bundle(tmp_path_factory.mktemp("bundles") / "spot")


@pytest.fixture(params=["onnxruntime", "openvino"])
def estimator(request: pytest.FixtureRequest, bundle: Path) -> Iterator[PoseEstimator]:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    with PoseEstimator(bundle, backend=request.param, threads=1) as estimator:
        yield estimator


def test_the_joint_is_where_the_spot_is(estimator: PoseEstimator) -> None:
    result = estimator(spots((100.0, 80.0)), [60, 40, 150, 160])
    assert isinstance(result, PoseResult)
    assert result.keypoints.shape == (1, 3, 2)
    assert result.keypoints.dtype == np.float32
    np.testing.assert_allclose(result.keypoints[0], [[100, 80]] * 3, atol=1.0)
    assert (result.presence > 0.9).all()
    assert result.image_size == (240, 320)
    assert result["left_hand"][0].x == pytest.approx(100, abs=1.0)
    assert result.box_scores.tolist() == [1]
    assert result.backend == estimator.describe()["backend"]


def test_every_box_has_its_own_person_also_beyond_one_batch(bundle: Path) -> None:
    centers = [(40.0 + 60 * (i % 5), 40.0 + 60 * (i // 5)) for i in range(15)]
    boxes = [[x - 20, y - 20, x + 20, y + 20] for x, y in centers]
    image = spots(*centers, sigma=5.0)
    with PoseEstimator(bundle, max_batch=4, backend="onnxruntime") as estimator:
        result = estimator(image, boxes)
        np.testing.assert_allclose(result.keypoints[:, 0], centers, atol=1.0)
        alone = [estimator(image, box).keypoints[0] for box in boxes]
    np.testing.assert_allclose(result.keypoints, alone, atol=1e-3)


def test_activation_maps_are_what_poses_are_decoded_from(bundle: Path) -> None:
    centers = [(40.0 + 60 * i, 60.0) for i in range(5)]
    boxes = [[x - 20, y - 20, x + 20, y + 20] for x, y in centers]
    image = spots(*centers, sigma=5.0)
    with PoseEstimator(bundle, max_batch=2, backend="onnxruntime") as estimator:
        maps = estimator.activation_maps(image, boxes)
        poses = estimator(image, boxes)
        assert estimator.activation_maps(image).cams.shape[0] == 1
        assert estimator.activation_maps(image, np.zeros((0, 4))).cams.shape == (0, *maps.cams.shape[1:])
    height, width = maps.crop_size
    rows, columns = maps.cams.shape[2:]
    for i, center in enumerate(centers):
        y, x = np.unravel_index(maps.cams[i, 0].argmax(), (rows, columns))
        cell = ((x + 0.5) * width / columns, (y + 0.5) * height / rows, 1)
        np.testing.assert_allclose(maps.affines[i] @ cell, center, atol=4)
    np.testing.assert_allclose(1 / (1 + np.exp(-maps.presence)), poses.presence, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "make", "color"),
    [
        ("bgr", lambda red: red, "bgr"),
        ("rgb", lambda red: red[..., ::-1], "rgb"),
        ("bgra", lambda red: np.dstack([red, np.zeros(red.shape[:2], np.uint8)]), "bgr"),
        ("gray", lambda red: red[..., 2], "bgr"),
        ("gray with an axis", lambda red: red[..., 2:], "bgr"),
        ("strided", lambda red: np.repeat(red, 2, axis=1)[:, ::2], "bgr"),
    ],
)
def test_colour_orders_and_layouts(bundle: Path, name: str, make: Any, color: Any) -> None:
    with PoseEstimator(bundle, color=color, backend="onnxruntime") as estimator:
        result = estimator(make(spots((100.0, 80.0))), [60, 40, 150, 160])
    np.testing.assert_allclose(result.keypoints[0, 0], (100, 80), atol=1.0)


def test_blue_is_not_red(bundle: Path) -> None:
    with PoseEstimator(bundle, color="rgb", backend="onnxruntime") as estimator:
        result = estimator(spots((100.0, 80.0)), [60, 40, 150, 160])  # a BGR image, called RGB
    assert (result.presence < 0.5).all()


def test_files_and_bytes_give_what_the_array_gives(bundle: Path, tmp_path: Path) -> None:
    image = spots((100.0, 80.0))
    path = tmp_path / "spot.png"
    cv2.imwrite(str(path), image)
    box = [60, 40, 150, 160]
    for color in ("bgr", "rgb"):
        with PoseEstimator(bundle, color=color, backend="onnxruntime") as estimator:
            array = image if color == "bgr" else image[..., ::-1]
            expected = estimator(array, box).keypoints
            for source in (path, str(path), path.read_bytes()):
                result = estimator(source, box)
                np.testing.assert_array_equal(result.keypoints, expected)
                assert result.timings.read_ms > 0
            assert estimator(array, box).timings.read_ms == 0


def test_files_are_decoded_in_the_estimators_order_wherever_they_come_from(
    bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "spot.png"
    cv2.imwrite(str(path), spots((100.0, 80.0), sigma=60.0))
    with PoseEstimator(bundle, color="rgb", backend="onnxruntime") as estimator:
        assert (next(estimator.stream(tmp_path)).presence > 0.9).all()
        assert (estimator.activation_maps(path).presence > 0).all()


def test_without_a_detector_the_whole_image_is_one_person(estimator: PoseEstimator) -> None:
    result = estimator(spots((250.0, 200.0)))
    assert result.boxes.tolist() == [[0, 0, 320, 240]]
    assert result.box_scores.tolist() == [1]
    assert result.keypoints[0, 0] == pytest.approx((250, 200), abs=3.0)


@pytest.mark.parametrize("shape", [(1, 1, 3), (20000, 10, 3), (10, 3000, 3)])
def test_odd_sizes(estimator: PoseEstimator, shape: tuple[int, int, int]) -> None:
    result = estimator(np.zeros(shape, np.uint8))
    assert len(result) == 1
    assert np.isfinite(result.keypoints).all()


def test_no_person_is_an_empty_result(bundle: Path) -> None:
    with PoseEstimator(bundle, detector=lambda image: np.zeros((0, 4))) as estimator:
        result = estimator(spots())
        assert len(result) == 0
        assert result.keypoints.shape == (0, 3, 2)
        assert estimator(spots(), np.zeros((0, 4))).scores.shape == (0, 3)


def test_a_detector_is_asked_when_no_boxes_are_given(bundle: Path) -> None:
    asked = []

    def detector(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(image.shape)
        return np.array([[60, 40, 150, 160.0]]), np.array([0.7])

    with PoseEstimator(bundle, detector=detector) as estimator:
        result = estimator(spots((100.0, 80.0)))
        estimator(spots(), [0, 0, 9, 9])
    assert asked == [(240, 320, 3)]
    assert result.box_scores.tolist() == pytest.approx([0.7])
    np.testing.assert_allclose(result.keypoints[0, 0], (100, 80), atol=1.0)
    assert result.timings.detect_ms > 0


@pytest.mark.parametrize("boxes", [[60, 40, 150, 160], np.zeros((0, 4))], ids=["somebody", "nobody"])
def test_who_gives_boxes_waits_for_no_detector(bundle: Path, boxes: Any) -> None:
    with PoseEstimator(bundle, detector=lambda image: pytest.fail("was asked")) as estimator:
        assert estimator(spots(), boxes).timings.detect_ms == 0


class _NeedsGradient:
    """What torch's tensors do that are still being learned."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        message = "call detach"
        raise RuntimeError(message)


BAD_BOXES: dict[str, tuple[Any, str]] = {
    "nan": ([[0, 0, 5, 5], [0, 0, np.nan, 5]], "box 1, .*, is not finite"),
    "infinite": ([0, 0, np.inf, 5], "box 0, .*, is not finite"),
    "no area": ([[0, 0, 5, 5], [3, 3, 3, 9]], "box 1, .*, has no area"),
    "turned around": ([9, 9, 3, 3], "box 0, .*, has no area"),
    "outside": ([400, 10, 500, 20], "box 0, .*, has no area inside the 320x240 image"),
    "three numbers": ([1, 2, 3], r"shape \(N, 4\)"),
    "cube": (np.zeros((2, 2, 4)), r"shape \(N, 4\)"),
    "text": ("everyone", "numbers of shape"),
    "a tensor that needs a gradient": (_NeedsGradient(), "numbers of shape .*: call detach"),
    "nobody, of another shape": (np.zeros((0, 7)), r"shape \(N, 4\)"),
    "beyond any image": ([-3e38, 0, 3e38, 5], r"box 0, .*, reaches beyond 1e\+07 pixels"),
    "beyond float32": ([0, 0, 1e300, 5], "box 0, .*, is not finite"),
}


@pytest.mark.parametrize("case", BAD_BOXES)
def test_bad_boxes_are_named_by_index(case: str) -> None:
    boxes, words = BAD_BOXES[case]
    with pytest.raises(ValueError, match=words):
        clip_boxes(boxes, (240, 320))


def test_boxes_are_clipped() -> None:
    assert clip_boxes([-5, -5, 500, 100], (240, 320)).tolist() == [[0, 0, 320, 100]]


def test_a_box_that_leaves_the_image_is_cropped_whole_as_in_training(bundle: Path) -> None:
    box = [-40.0, 20.0, 100.0, 260.0]
    with PoseEstimator(bundle) as estimator:
        height, width = estimator.describe()["input_size"]
        result = estimator(spots((60.0, 80.0)), box)
        maps = estimator.activation_maps(spots((60.0, 80.0)), box)
    padding = Bundle.open(bundle).manifest.input.padding
    np.testing.assert_allclose(maps.affines, crop_affines([box], (height, width), padding=padding))
    np.testing.assert_allclose(result.keypoints[0, 0], (60, 80), atol=2.0)  # a cell is 19 pixels
    assert result.boxes.tolist() == [[0, 20, 100, 240]]


def test_predict_and_stream(estimator: PoseEstimator, tmp_path: Path) -> None:
    images = [spots((80.0, 80.0)), spots((120.0, 90.0))]
    boxes = [[40, 40, 120, 120], [80, 50, 160, 130]]
    results = estimator.predict(images, boxes)
    assert [r.keypoints[0, 0].round().tolist() for r in results] == [[80, 80], [120, 90]]
    for one in (images[0], "photo.jpg", b"bytes"):
        with pytest.raises(TypeError, match="for one image call the estimator itself"):
            estimator.predict(one)
    with pytest.raises(ValueError, match="one entry for each of the 2 images, got 1"):
        estimator.predict(images, boxes[:1])
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    streamed = list(estimator.stream(tmp_path))
    np.testing.assert_allclose([r.keypoints[0, 0] for r in streamed], [(80, 80), (120, 90)], atol=8.0)
    assert streamed[0].timings.read_ms > 0


def test_a_stream_gives_the_frames_as_well(estimator: PoseEstimator, tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), spots((80.0 + 5 * i, 80.0)))
    pairs = list(estimator.stream(tmp_path, with_frames=True))
    assert [(Path(frame.name).name, frame.index) for frame, _ in pairs] == [(f"{i}.png", i) for i in range(3)]
    for (frame, found), alone in zip(pairs, estimator.stream(tmp_path), strict=True):
        np.testing.assert_array_equal(found.keypoints, alone.keypoints)
        np.testing.assert_array_equal(found.keypoints, estimator(frame.image).keypoints)


def test_a_stream_follows_people(estimator: PoseEstimator) -> None:
    images = [spots((80.0 + x, 80.0)) for x in (0, 0, 0, 0, 3)]
    plain = list(estimator.stream(images))
    followed = list(estimator.stream(images, tracker=PoseTracker()))
    assert [pose.track_id for result in followed for pose in result] == [1] * 5
    assert plain[0].track_ids is None
    np.testing.assert_array_equal(followed[3].keypoints, plain[3].keypoints)
    assert (followed[4].keypoints[0, 0] != plain[4].keypoints[0, 0]).any()
    for wrong in ("yes", PoseTracker):
        with pytest.raises(TypeError, match=r"tracker takes a PoseTracker\(\), got"):
            estimator.stream(images, tracker=wrong)  # type: ignore[arg-type]


def test_threads_share_an_estimator(estimator: PoseEstimator) -> None:
    # The same box for all: the crops differ, and so do the joints in them.
    centers = [(60.0 + 20 * i, 80.0) for i in range(8)]
    wrong: list[Any] = []
    begin = threading.Barrier(len(centers))

    def work(center: tuple[float, float]) -> None:
        image, box = spots(center), [20, 20, 240, 140]
        begin.wait()
        for _ in range(20):
            found = estimator(image, box).keypoints[0, 0]
            if np.abs(found - center).max() > 3.0:
                wrong.append((center, found))

    threads = [threading.Thread(target=work, args=(c,)) for c in centers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_calls_in_the_engine_at_once_keep_their_crops_and_maps(
    estimator: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_there = threading.Barrier(2, timeout=30)
    infer = estimator._backend.infer

    def slowly(crops: np.ndarray) -> Any:
        both_are_there.wait()
        maps = infer(crops)
        both_are_there.wait()
        return maps

    monkeypatch.setattr(estimator._backend, "infer", slowly)
    centers = [(60.0, 80.0), (200.0, 80.0)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda center: estimator(spots(center), [20, 20, 240, 140]), centers))
    np.testing.assert_allclose([result.keypoints[0, 0] for result in results], centers, atol=3.0)


def test_results_do_not_change_with_the_next_call(estimator: PoseEstimator) -> None:
    first = estimator(spots((100.0, 80.0)), [60, 40, 150, 160])
    kept = first.keypoints.copy()
    estimator(spots((130.0, 120.0)), [60, 40, 150, 160])
    np.testing.assert_array_equal(first.keypoints, kept)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_estimator_that_is_closed_during_a_call_says_so(bundle: Path, backend: str) -> None:
    pytest.importorskip(backend)

    def close(image: np.ndarray) -> list[list[int]]:
        pose.close()
        return [[0, 0, 20, 20]]

    pose = PoseEstimator(bundle, backend=backend, detector=close)
    with pytest.raises(RuntimeError, match="this PoseEstimator is closed"):
        pose(np.zeros((40, 40, 3), np.uint8))


def test_a_box_is_cut_out_alike_whoever_gives_it(bundle: Path) -> None:
    """Also beyond the image: the crop has the whole box's scale, and the result's box is clipped."""
    box = [-60.0, 20.0, 140.0, 330.0]
    image = spots((50.0, 100.0))
    found = []
    for detector, boxes in ((lambda _: [box], None), (None, [box])):
        with PoseEstimator(bundle, detector=detector, backend="onnxruntime") as estimator:
            found.append(estimator(image, boxes))
    detected, given = found
    np.testing.assert_array_equal(detected.keypoints, given.keypoints)
    np.testing.assert_array_equal(detected.boxes, given.boxes)
    assert given.boxes.tolist() == [[0, 20, 140, 240]]


def test_a_closed_estimator_keeps_no_detector(bundle: Path) -> None:
    class Detector:
        def __call__(self, image: np.ndarray) -> list[list[int]]:
            return [[0, 0, 20, 20]]

    pose = PoseEstimator(bundle, detector=Detector())
    detector = weakref.ref(pose._detector)
    pose.close()
    assert detector() is None


def test_a_closed_estimator_says_so(bundle: Path) -> None:
    estimator = PoseEstimator(bundle)
    estimator.close()
    estimator.close()
    for use in (estimator, estimator.activation_maps):
        with pytest.raises(RuntimeError, match="closed"):
            use(spots())
    with pytest.raises(RuntimeError, match="closed"), estimator:
        pass


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_signals_reach_their_handler_after_estimators_came_and_went(bundle: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    code = """
import signal, sys
import numpy as np
from lfpose_edge import PoseEstimator

signal.signal(signal.SIGINT, lambda *_: print("handled"))
image = np.zeros((64, 64, 3), np.uint8)
first, second = (PoseEstimator(sys.argv[1], backend=sys.argv[2]) for _ in range(2))
first(image), second(image)
first.close()
del first
second.close()
del second
signal.raise_signal(signal.SIGINT)
"""
    arguments = [sys.executable, "-c", code, str(bundle), backend]
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr


def test_the_shipped_model_runs_on_the_packaged_photo() -> None:
    from lfpose_edge.cli.predict import PHOTO

    with PoseEstimator(threads=1) as estimator:
        result = estimator(PHOTO)
    # A portrait of 512 x 512: the head is in the upper middle, the shoulders are below it.
    head, neck = result[0]["head_top"], result[0]["neck"]
    assert 150 < head.x < 310
    assert head.y < neck.y
    assert result[0]["left_shoulder"].x > result[0]["right_shoulder"].x
