"""Equalised channels compute what they did; corrected biases take quantisation's mean error away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lfpose_edge.export.adjust import correct_biases, equalise
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.quantize import Style, quantise, quantised_tensors
from lfpose_edge.export.ranges import Calibration, calibration_from, observe
from nets import write_blob_bundle
from onnx import TensorProto, helper, numpy_helper


def _chain(
    between: Sequence[str] = (), *, depthwise: bool = False, seen_twice: bool = False
) -> onnx.ModelProto:
    """Two convolutions, channels of very different sizes between them, and a third."""
    rng = np.random.default_rng(0)
    uneven = np.array([0.02, 0.2, 1, 5], np.float32)
    constants = {
        "one.weight": rng.normal(size=(4, 3, 1, 1)) * uneven.reshape(4, 1, 1, 1),
        "one.bias": rng.normal(size=4) * uneven,
        "two.weight": rng.normal(size=(4, 1 if depthwise else 4, 3, 3)),
        "two.bias": rng.normal(size=4),
        "three.weight": rng.normal(size=(2, 4, 1, 1)),
        "low": np.array(0.0),
        "high": np.array(6.0),
    }
    make = helper.make_node
    nodes = [make("Conv", ["crops", "one.weight", "one.bias"], ["a"], name="one")]
    name = "a"
    for i, kind in enumerate(between):
        limits = ["low", "high"] if kind == "Clip" else []
        nodes.append(make(kind, [name, *limits], [f"a{i}"], name=f"between{i}"))
        name = f"a{i}"
    group = 4 if depthwise else 1
    nodes += [
        make("Conv", [name, "two.weight", "two.bias"], ["b"], name="two", pads=[1] * 4, group=group),
        make("Add", ["b", "a"], ["c"], name="add") if seen_twice else make("Relu", ["b"], ["c"], name="relu"),
        make("Conv", ["c", "three.weight"], ["out"], name="three"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [info("crops", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [info("out", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _run(model: onnx.ModelProto, crops: np.ndarray, name: str = "out") -> np.ndarray:
    extra = [] if name == "out" else [name]
    data = Graph(model).to_model(extra).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run([name], {"crops": crops})[0]


CROPS = np.random.default_rng(1).normal(size=(24, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        pytest.param({}, 2, id="linear"),
        pytest.param({"between": ["Relu"]}, 2, id="over a ReLU"),
        pytest.param({"between": ["Clip"]}, 1, id="not over a ReLU6"),
        pytest.param({"depthwise": True}, 2, id="into a depthwise layer"),
        pytest.param({"seen_twice": True}, 0, id="not when others look"),
    ],
)
def test_equalised_channels_compute_the_same(options: dict[str, object], pairs: int) -> None:
    model = _chain(**options)
    equalised, count = equalise(model)
    assert count == pairs
    np.testing.assert_allclose(_run(equalised, CROPS), _run(model, CROPS), rtol=1e-4, atol=1e-4)


def test_equalised_channels_are_of_one_size() -> None:
    model = _chain()

    def unevenness(of: onnx.ModelProto) -> float:
        largest = np.abs(_run(of, CROPS, "a")).max(axis=(0, 2, 3))
        return float(largest.max() / largest.min())

    assert unevenness(equalise(model)[0]) < unevenness(model) / 5


def _harsh_ranges(model: onnx.ModelProto) -> Calibration:
    """Ranges that cut off far too much, so that quantisation is biased."""
    seen = observe(model, quantised_tensors(Graph(model)), CROPS)
    calibration = calibration_from(seen, "minmax", crops=24, source_sha256="0" * 64)
    ranges = {name: (low / 3, high / 3) for name, (low, high) in calibration.ranges.items()}
    return replace(calibration, ranges=ranges)


@pytest.mark.parametrize("style", ["cpu", "trt"])
def test_corrected_biases_take_the_mean_error_away(style: Style) -> None:
    model = _chain(["Relu"])
    calibration = _harsh_ranges(model)
    in_float = ["three"]
    corrected = correct_biases(model, calibration, style, CROPS, in_float=in_float)

    def error(of: onnx.ModelProto) -> float:
        found = _run(quantise(of, calibration, style, in_float=in_float), CROPS, "b")
        return float(np.abs((found - _run(model, CROPS, "b")).mean(axis=(0, 2, 3))).max())

    assert error(corrected) < 0.2 * error(model)
    assert error(model) > 0.05


def test_a_bias_that_layers_share_is_corrected_for_each_of_them() -> None:
    model = _chain(["Relu"])
    two = next(node for node in model.graph.node if node.name == "two")
    two.input[2] = "one.bias"
    calibration = _harsh_ranges(model)
    corrected = quantise(
        correct_biases(model, calibration, "trt", CROPS, in_float=["three"]),
        calibration,
        "trt",
        in_float=["three"],
    )
    for name in ("a", "b"):
        found, expected = (_run(m, CROPS, name).mean(axis=(0, 2, 3)) for m in (corrected, model))
        np.testing.assert_allclose(found, expected, atol=0.03)
    equalised, _ = equalise(model)
    np.testing.assert_allclose(_run(equalised, CROPS), _run(model, CROPS), rtol=1e-4, atol=1e-4)


def test_without_a_bias_there_is_nothing_to_correct() -> None:
    model = _chain(["Relu"])
    for node in model.graph.node:
        del node.input[2:]
    calibration = _harsh_ranges(model)
    corrected = correct_biases(model, calibration, "cpu", CROPS, in_float=["three"])
    np.testing.assert_array_equal(_run(corrected, CROPS), _run(model, CROPS))


def test_layers_that_stay_in_float_keep_their_biases() -> None:
    model = _chain(["Relu"])
    corrected = correct_biases(model, _harsh_ranges(model), "cpu", CROPS, in_float=["two", "three"])
    biases = {node.name: node.input[2] for node in corrected.graph.node if len(node.input) > 2}
    assert biases["two"] == "two.bias"
    assert biases["one"] != "one.bias"


@pytest.mark.parametrize(
    ("options", "recorded", "changed"),
    [
        (["--ranges", "minmax"], {"ranges": "minmax"}, {"calibration.json", "model.int8-cpu.onnx"}),
        (["--ranges", "mse", "--correct-biases"], {"biases_corrected": True}, {"model.int8-cpu.onnx"}),
        (["--ranges", "mse", "--equalise"], {"equalised_pairs": 0}, set()),  # there are ReLU6 between all
    ],
)
def test_what_is_done_before_int8_is_in_the_models_and_in_the_report(
    run, frames: Path, tmp_path: Path, options: list[str], recorded: dict[str, object], changed: set[str]
) -> None:
    write_blob_bundle(tmp_path / "blob")
    for name, more in (("plain", ["--ranges", "mse"]), ("other", options)):
        code, _, err = run("blob", "--out", name, "--int8", "--calib", frames, "--max-drop", "5", *more)
        assert code == 0, err
    plain, other = tmp_path / "plain", tmp_path / "other"
    told, before = (
        json.loads((out / "report.json").read_text(encoding="utf-8"))["calibration"] for out in (other, plain)
    )
    assert {key: told[key] for key in told if told[key] != before[key]} == recorded
    for file in ("calibration.json", "model.int8-cpu.onnx"):
        differs = (plain / file).read_bytes() != (other / file).read_bytes()
        assert differs == (file in changed), file
