"""Options of an estimator, from its caller and its model: they take effect or are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import JOINTS, SIZE, STRIDE, write_spot_bundle
from pictures import spots

from lfpose_edge import PoseEstimator
from lfpose_edge.backends.base import Request
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops import DecodeConfig, reference


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spot_bundle(tmp_path_factory.mktemp("bundles") / "spot")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "lfpose-light"}, BundleError, "did you mean 'lfpose-lite'"),
        ({"backend": "onnxrt"}, BackendUnavailable, "did you mean 'onnxruntime'"),
        ({"backend": "onnxruntime", "device": "cuda"}, BackendUnavailable, "pip install onnxruntime-gpu"),
        ({"backend": "openvino", "device": "cuda"}, BackendUnavailable, "runs on device 'cpu' here"),
        ({"backend": "onnxruntime", "precision": "fp16"}, BackendUnavailable, "fp32 or int8, not 'fp16'"),
        ({"device": "cuda:0"}, BackendUnavailable, "no backend can do device 'cuda:0'"),
        ({"device": "gpu"}, BackendUnavailable, "unknown device 'gpu': it is auto, cpu, cuda or cuda:N$"),
        ({"device": "cuda:x", "backend": "onnxruntime"}, BackendUnavailable, "unknown device 'cuda:x'"),
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
        ({"cache_dir": ""}, ValueError, "cache_dir is empty"),
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
    image = spots((100.0, 80.0))
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
    image, box = spots((101.0, 82.0), (110.0, 95.0), sigma=9.0), [60, 40, 150, 160]
    with PoseEstimator(bundle, backend="onnxruntime") as estimator:
        maps, result = estimator.activation_maps(image, box), estimator(image, box)
    config = DecodeConfig(**{"stride": STRIDE, "upsample": 4, **facts})
    places, _, _ = reference.decode(maps.cams, maps.presence, maps.affines, config)
    np.testing.assert_allclose(result.keypoints, places, atol=1e-3)


@pytest.mark.parametrize("threshold", [0, 0.9])
def test_whose_presence_is_too_low_is_the_callers_to_say(bundle: Path, threshold: float) -> None:
    with PoseEstimator(bundle, presence_threshold=threshold) as estimator:
        assert estimator(spots()).presence_threshold == threshold


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


@pytest.mark.parametrize(
    ("where", "kind"),
    [("load", ImportError), ("_core", ImportError), ("_core", RuntimeError), ("get_property", RuntimeError)],
)
def test_auto_passes_over_an_engine_that_is_installed_and_broken(
    bundle: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    kind: type[Exception],
) -> None:
    from lfpose_edge.backends import openvino

    def broken(*_: object) -> None:
        message = "libtbb.so.12: cannot open shared object file\nand more"
        raise kind(message)

    monkeypatch.setattr(openvino, "unavailable", lambda: None)
    if where == "get_property":
        monkeypatch.setattr(openvino, "_core", lambda: SimpleNamespace(get_property=broken))
    else:
        monkeypatch.setattr(openvino, where, broken)
    with caplog.at_level("INFO", "lfpose_edge"), PoseEstimator(bundle) as estimator:
        assert estimator.describe()["backend"].startswith("onnxruntime")
    assert "not openvino: openvino is installed, and does not start: libtbb.so.12" in caplog.text
    with pytest.raises(BackendUnavailable, match="does not start: libtbb"):
        PoseEstimator(bundle, backend="openvino")


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


def test_describe_is_plain_data(bundle: Path) -> None:
    with PoseEstimator(bundle) as estimator:
        facts = json.loads(json.dumps(estimator.describe()))
    assert facts["model"] == "spot"
    assert facts["input_size"] == [64, 48]
    assert estimator.skeleton.keypoints == JOINTS
