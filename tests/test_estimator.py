"""The estimator end to end, on a network whose joints are the brightest spot: where it looks is known."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import JOINTS, SIZE, STRIDE, write_spot_bundle

from lfpose_edge import PoseEstimator, PoseResult
from lfpose_edge.backends.base import Request
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.geometry import clip_boxes, crop_affines
from lfpose_edge.ops import DecodeConfig, reference


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spot_bundle(tmp_path_factory.mktemp("bundles") / "spot")


@pytest.fixture(params=["onnxruntime", "openvino"])
def estimator(request: pytest.FixtureRequest, bundle: Path) -> Iterator[PoseEstimator]:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    with PoseEstimator(bundle, backend=request.param, threads=1) as estimator:
        yield estimator


def _spots(
    *centers: tuple[float, float], size: tuple[int, int] = (240, 320), sigma: float = 12.0
) -> np.ndarray:
    """A black BGR image with red bumps centred at continuous coordinates."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    red = np.zeros(size)
    for cx, cy in centers:
        red = np.maximum(red, 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)))
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = red.round()
    return image


def test_the_joint_is_where_the_spot_is(estimator: PoseEstimator) -> None:
    result = estimator(_spots((100.0, 80.0)), [60, 40, 150, 160])
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
    image = _spots(*centers, sigma=5.0)
    with PoseEstimator(bundle, max_batch=4, backend="onnxruntime") as estimator:
        result = estimator(image, boxes)
        np.testing.assert_allclose(result.keypoints[:, 0], centers, atol=1.0)
        alone = [estimator(image, box).keypoints[0] for box in boxes]
    np.testing.assert_allclose(result.keypoints, alone, atol=1e-3)


def test_activation_maps_are_what_poses_are_decoded_from(bundle: Path) -> None:
    centers = [(40.0 + 60 * i, 60.0) for i in range(5)]
    boxes = [[x - 20, y - 20, x + 20, y + 20] for x, y in centers]
    image = _spots(*centers, sigma=5.0)
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
        result = estimator(make(_spots((100.0, 80.0))), [60, 40, 150, 160])
    np.testing.assert_allclose(result.keypoints[0, 0], (100, 80), atol=1.0)


def test_blue_is_not_red(bundle: Path) -> None:
    with PoseEstimator(bundle, color="rgb", backend="onnxruntime") as estimator:
        result = estimator(_spots((100.0, 80.0)), [60, 40, 150, 160])  # a BGR image, called RGB
    assert (result.presence < 0.5).all()


def test_files_and_bytes_give_what_the_array_gives(bundle: Path, tmp_path: Path) -> None:
    image = _spots((100.0, 80.0))
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
    cv2.imwrite(str(path), _spots((100.0, 80.0), sigma=60.0))
    with PoseEstimator(bundle, color="rgb", backend="onnxruntime") as estimator:
        assert (next(estimator.stream(tmp_path)).presence > 0.9).all()
        assert (estimator.activation_maps(path).presence > 0).all()


def test_without_a_detector_the_whole_image_is_one_person(estimator: PoseEstimator) -> None:
    result = estimator(_spots((250.0, 200.0)))
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
        result = estimator(_spots())
        assert len(result) == 0
        assert result.keypoints.shape == (0, 3, 2)
        assert estimator(_spots(), np.zeros((0, 4))).scores.shape == (0, 3)


def test_a_detector_is_asked_when_no_boxes_are_given(bundle: Path) -> None:
    asked = []

    def detector(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(image.shape)
        return np.array([[60, 40, 150, 160.0]]), np.array([0.7])

    with PoseEstimator(bundle, detector=detector) as estimator:
        result = estimator(_spots((100.0, 80.0)))
        estimator(_spots(), [0, 0, 9, 9])
    assert asked == [(240, 320, 3)]
    assert result.box_scores.tolist() == pytest.approx([0.7])
    np.testing.assert_allclose(result.keypoints[0, 0], (100, 80), atol=1.0)
    assert result.timings.detect_ms > 0


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
        result = estimator(_spots((60.0, 80.0)), box)
        maps = estimator.activation_maps(_spots((60.0, 80.0)), box)
    padding = Bundle.open(bundle).manifest.input.padding
    np.testing.assert_allclose(maps.affines, crop_affines([box], (height, width), padding=padding))
    np.testing.assert_allclose(result.keypoints[0, 0], (60, 80), atol=2.0)  # a cell is 19 pixels
    assert result.boxes.tolist() == [[0, 20, 100, 240]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "lfpose-light"}, BundleError, "did you mean 'lfpose-lite'"),
        ({"backend": "onnxrt"}, BackendUnavailable, "did you mean 'onnxruntime'"),
        ({"backend": "onnxruntime", "device": "cuda"}, BackendUnavailable, "pip install onnxruntime-gpu"),
        ({"backend": "openvino", "device": "cuda"}, BackendUnavailable, "runs on device 'cpu' here"),
        ({"backend": "onnxruntime", "precision": "fp16"}, BackendUnavailable, "fp32 or int8, not 'fp16'"),
        ({"device": "cuda:0"}, BackendUnavailable, "no backend can do device 'cuda:0'"),
        ({"precision": "int8"}, BundleError, "has no int8-cpu model"),
        ({"precision": "double"}, ValueError, "precision must be one of"),
        ({"color": "hsv"}, ValueError, "color must be one of"),
        ({"max_batch": 0}, ValueError, "max_batch"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": "2"}, TypeError, "threads must be an int, got '2'"),
        ({"threads": 1.5}, TypeError, "threads must be an int"),
        ({"max_batch": True}, TypeError, "max_batch must be an int"),
        ({"model": None}, TypeError, "got NoneType"),
        ({"model": ""}, BundleError, "no model ''"),
        ({"backend": None}, TypeError, "backend and device are names"),
        ({"device": 0}, TypeError, "backend and device are names"),
        ({"cache_dir": __file__}, ValueError, "cache_dir .* cannot be a folder"),
        ({"presence_threshold": 2}, ValueError, "presence_threshold"),
    ],
)
def test_arguments_that_cannot_be_met(
    bundle: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        PoseEstimator(**{"model": bundle, **arguments})


@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_manifests_facts_reach_the_crop(
    tmp_path: Path, order: Any, color: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, std, border = (10.0, 20.0, 30.0), (20.0, 30.0, 40.0), (90, 50, 10)
    bundle = write_spot_bundle(
        tmp_path / "b",
        input={"size": SIZE, "color": order, "mean": mean, "std": std, "border": border, "padding": 1.5},
    )
    image = _spots((100.0, 80.0))
    image[..., 0] = 40
    box, crops = [-40.0, 20, 150, 160], []
    with PoseEstimator(bundle, color=color, backend="onnxruntime") as estimator:
        infer = estimator._backend.infer
        monkeypatch.setattr(estimator._backend, "infer", lambda c: crops.append(c.copy()) or infer(c))
        given = image if color == "bgr" else np.ascontiguousarray(image[..., ::-1])
        estimator.activation_maps(given, box)
        estimator(given, box)
    as_the_network = image if order == "bgr" else image[..., ::-1]
    affines = crop_affines(box, SIZE, padding=1.5)
    expected = reference.preprocess(as_the_network, affines, SIZE, mean=mean, std=std, border=border)
    for crop in crops:
        np.testing.assert_allclose(crop, expected, atol=1e-3)
    assert len(crops) == 2


@pytest.mark.parametrize(
    "facts",
    [
        {"method": "none", "upsample": 2},
        {"method": "quarter", "upsample": 1},
        {"method": "softargmax", "window": 3},
        {"method": "dark", "blur_sigma": 5.0},
    ],
    ids=lambda facts: facts["method"],
)
def test_the_manifests_facts_reach_the_decoding(tmp_path: Path, facts: dict[str, Any]) -> None:
    bundle = write_spot_bundle(tmp_path / "b", decode={"cam_stride": STRIDE, "upsample": 4, **facts})
    image, box = _spots((101.0, 82.0), (110.0, 95.0), sigma=9.0), [60, 40, 150, 160]
    with PoseEstimator(bundle, backend="onnxruntime") as estimator:
        maps, result = estimator.activation_maps(image, box), estimator(image, box)
    config = DecodeConfig(**{"stride": STRIDE, "upsample": 4, **facts})
    places, _, _ = reference.decode(maps.cams, maps.presence, maps.affines, config)
    np.testing.assert_allclose(result.keypoints, places, atol=1e-3)


@pytest.mark.parametrize("threshold", [0, 0.9])
def test_whose_presence_is_too_low_is_the_callers_to_say(bundle: Path, threshold: float) -> None:
    with PoseEstimator(bundle, presence_threshold=threshold) as estimator:
        assert estimator(_spots()).presence_threshold == threshold


def test_what_is_asked_for_reaches_engine_and_detector(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lfpose_edge import estimator as module

    asked: list[Any] = []
    resolve, load = module.resolve_detector, module.load_backend
    monkeypatch.setattr(
        module, "resolve_detector", lambda spec, **rest: asked.append(rest) or resolve(spec, **rest)
    )
    monkeypatch.setattr(module, "load_backend", lambda *rest: asked.append(rest[2]) or load(*rest))
    options: dict[str, Any] = {"threads": 3, "cache_dir": tmp_path, "max_batch": 5}
    with PoseEstimator(bundle, device="cpu", precision="fp32", color="rgb", **options) as estimator:
        about = estimator.describe()
    detector, request = asked
    assert detector == {"color": "rgb", "cache_dir": str(tmp_path), "threads": 3}
    assert request == Request("cpu", "fp32", 3, str(tmp_path), 5)
    assert (about["threads"], about["max_batch"]) == (3, 5)


def test_auto_says_what_it_took_and_why(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lfpose_edge"), PoseEstimator(bundle) as estimator:
        backend = estimator.describe()["backend"]
    assert f"backend auto: {backend}" in caplog.text


def test_auto_without_openvino_takes_onnxruntime_and_says_so(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lfpose_edge.backends import openvino

    monkeypatch.setattr(openvino, "unavailable", lambda: "openvino is not installed: pip install openvino")
    with caplog.at_level("INFO", "lfpose_edge"), PoseEstimator(bundle) as estimator:
        assert estimator.describe()["backend"].startswith("onnxruntime")
    assert "not openvino: openvino is not installed" in caplog.text
    with pytest.raises(BackendUnavailable, match="pip install openvino"):
        PoseEstimator(bundle, backend="openvino")


def test_auto_passes_over_an_engine_that_is_installed_and_broken(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lfpose_edge.backends import openvino

    def broken(*_: object) -> None:
        message = "libtbb.so.12: cannot open shared object file"
        raise ImportError(message)

    monkeypatch.setattr(openvino, "unavailable", lambda: None)
    monkeypatch.setattr(openvino, "load", broken)
    with caplog.at_level("INFO", "lfpose_edge"), PoseEstimator(bundle) as estimator:
        assert estimator.describe()["backend"].startswith("onnxruntime")
    assert "not openvino: openvino is installed, and cannot be imported: libtbb.so.12" in caplog.text
    with pytest.raises(BackendUnavailable, match="cannot be imported: libtbb"):
        PoseEstimator(bundle, backend="openvino")


def test_predict_and_stream(estimator: PoseEstimator, tmp_path: Path) -> None:
    images = [_spots((80.0, 80.0)), _spots((120.0, 90.0))]
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


def test_threads_share_an_estimator(estimator: PoseEstimator) -> None:
    # The same box for all: the crops differ, and so do the joints in them.
    centers = [(60.0 + 20 * i, 80.0) for i in range(8)]
    wrong: list[Any] = []
    begin = threading.Barrier(len(centers))

    def work(center: tuple[float, float]) -> None:
        image, box = _spots(center), [20, 20, 240, 140]
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
        results = list(pool.map(lambda center: estimator(_spots(center), [20, 20, 240, 140]), centers))
    np.testing.assert_allclose([result.keypoints[0, 0] for result in results], centers, atol=3.0)


def test_results_do_not_change_with_the_next_call(estimator: PoseEstimator) -> None:
    first = estimator(_spots((100.0, 80.0)), [60, 40, 150, 160])
    kept = first.keypoints.copy()
    estimator(_spots((130.0, 120.0)), [60, 40, 150, 160])
    np.testing.assert_array_equal(first.keypoints, kept)


def test_a_closed_estimator_says_so(bundle: Path) -> None:
    estimator = PoseEstimator(bundle)
    estimator.close()
    estimator.close()
    for use in (estimator, estimator.activation_maps):
        with pytest.raises(RuntimeError, match="closed"):
            use(_spots())
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
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "stride": {"decode": {"cam_stride": 8, "upsample": 4, "method": "none"}},
    "joints": {"joints": {"name": "two", "keypoints": ("a", "b"), "edges": (), "sigmas": (0.1, 0.1)}},
    "size that the network cannot take": {
        "input": {"size": (2, 2), "mean": (0, 0, 0), "std": (1, 1, 1), "padding": 1}
    },
}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_network_is_refused(tmp_path: Path, case: str, backend: str) -> None:
    bundle = write_spot_bundle(tmp_path / "b", **CONTRADICTIONS[case])
    with pytest.raises(BundleError, match="the network") as caught:
        PoseEstimator(bundle, backend=backend)
    assert str(bundle) in str(caught.value)


def test_describe_is_plain_data(estimator: PoseEstimator) -> None:
    facts = json.loads(json.dumps(estimator.describe()))
    assert facts["model"] == "spot"
    assert facts["input_size"] == [64, 48]
    assert estimator.skeleton.keypoints == JOINTS


def test_the_shipped_model_runs_on_the_packaged_photo() -> None:
    from lfpose_edge.cli.predict import PHOTO

    with PoseEstimator(threads=1) as estimator:
        result = estimator(PHOTO)
    # A portrait of 512 x 512: the head is in the upper middle, the shoulders are below it.
    head, neck = result[0]["head_top"], result[0]["neck"]
    assert 150 < head.x < 310
    assert head.y < neck.y
    assert result[0]["left_shoulder"].x > result[0]["right_shoulder"].x
