"""OpenVINO: the 1x1 convolutions of an INT8 network on a CPU that has AMX."""

from __future__ import annotations

import locale
import tempfile
import threading
from typing import Any, NoReturn

import numpy as np
import pytest

from lfpose_edge.backends import Request, openvino
from lfpose_edge.bundle import Bundle
from lfpose_edge.machine import cpu_flags
from lfpose_edge.zoo import bundle_path

CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


@pytest.fixture
def core() -> Any:
    if reason := openvino.unavailable():
        pytest.skip(reason)
    return openvino.start()[0]


def outputs(core: Any, model: Any) -> list[np.ndarray]:
    request = core.compile_model(model, "CPU", CONFIG).create_infer_request()
    crops = np.random.default_rng(0).normal(size=(2, 3, 192, 192)).astype(np.float32)
    request.infer({"crops": crops})
    return [np.array(request.get_tensor(name).data) for name in ("cams", "presence")]


def test_the_wish_for_avx512_changes_no_number(core: Any) -> None:
    path = Bundle.open(bundle_path("lfpose-lite")).model_file("int8-cpu")
    model = core.read_model(str(path))
    wished = openvino._pointwise_by_avx512(core, model)
    assert wished is not model
    for given, found in zip(outputs(core, model), outputs(core, wished), strict=True):
        np.testing.assert_array_equal(given, found)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_int8_has_no_1x1_convolution_by_amx(core: Any, precision: str) -> None:
    if "amx_int8" not in cpu_flags():
        pytest.skip("this CPU has no AMX for INT8")
    backend = openvino.load(Bundle.open(bundle_path("lfpose-lite")), Request(precision=precision))
    for model in (backend._one, backend._any_number):
        kinds = [op.rt_info["primitiveType"].value for op in model.get_runtime_model().get_ops()]
        pointwise = [kind for kind in kinds if "1x1" in kind]
        assert len(pointwise) > 50
        assert not [kind for kind in pointwise if "amx" in kind]
        assert all(kind.endswith("_I8" if precision == "int8" else "_f32") for kind in pointwise)
    backend.close()


def test_without_room_for_a_file_the_model_stays(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> NoReturn:
        message = "No usable temporary directory found"
        raise FileNotFoundError(message)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    model = core.read_model(str(Bundle.open(bundle_path("lfpose-lite")).model_file("int8-cpu")))
    assert openvino._pointwise_by_avx512(core, model) is model


class LeavesTheLocaleC:
    """OpenVINO's core, with what it does to the locale while it uses its cache, in the order that harms."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._one_by_one = threading.Lock()
        self._both = threading.Barrier(2, timeout=60)
        self._first_is_back = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def compile_model(self, *arguments: Any) -> Any:
        with self._one_by_one:
            found = locale.setlocale(locale.LC_CTYPE)
            locale.setlocale(locale.LC_CTYPE, "C")
        self._both.wait()
        if found == "C":
            assert self._first_is_back.wait(60)
        locale.setlocale(locale.LC_CTYPE, found)
        self._first_is_back.set()
        return self._core.compile_model(*arguments)


def test_the_locale_stays_as_it_was(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    try:
        monkeypatch.setattr(openvino, "start", lambda: (LeavesTheLocaleC(core), ["FP32"]))
        openvino.load(Bundle.open(bundle_path("lfpose-lite")), Request(precision="fp32")).close()
        assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"
    finally:
        locale.setlocale(locale.LC_ALL, before)
