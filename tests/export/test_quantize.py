"""What is observed, and Q/DQ pairs in two styles."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lfpose_edge.export import ranges
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.quantize import (
    Grid,
    Style,
    quantise,
    quantise_weights,
    quantised_tensors,
    tail_layers,
    weighted_layers,
)
from lfpose_edge.export.ranges import calibration_from, observe
from nets import blob_network, spot_image

STYLES: list[Style] = ["cpu", "trt"]


def _crops(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = np.stack([spot_image(rng) for _ in range(n)])[..., ::-1]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 64


@pytest.fixture(scope="module")
def calibration():
    model = blob_network()
    seen = observe(model, quantised_tensors(Graph(model)), _crops(40))
    return calibration_from(seen, "minmax", crops=40, source_sha256="0" * 64)


def _run(model: onnx.ModelProto, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    cams, presence = session.run(("cams", "presence"), {"crops": crops})
    return cams, presence


def test_observation_has_the_exact_extremes() -> None:
    model, crops = blob_network(), _crops(10)
    seen = observe(model, ["crops", "b", "cams"], crops, batch=4)
    cams, _ = _run(model, crops)
    assert seen["crops"].low == crops.min()
    assert seen["crops"].high == crops.max()
    assert seen["cams"].high == pytest.approx(cams.max(), abs=1e-6)
    assert seen["b"].low == 0
    assert len(seen["b"].kept) == 10 * min(2048, 8 * 16 * 12)


def test_the_extremes_are_of_all_batches() -> None:
    crops = _crops(10)
    crops[0, 0, 0, 0], crops[1, 0, 0, 0] = -7, 99  # both in the first of three
    seen = observe(blob_network(), ["crops"], crops, batch=4)["crops"]
    assert (seen.low, seen.high) == (-7, 99)


def test_ranges_survive_their_file(calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "calibration.json")
    again = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    assert (again["method"], again["crops"], again["source_sha256"]) == ("minmax", 40, "0" * 64)
    assert again["ranges"].keys() == calibration.ranges.keys()
    for name, bounds in again["ranges"].items():
        assert bounds == pytest.approx(calibration.ranges[name], abs=1e-6)


def test_weights_are_restored_to_half_a_step_in_every_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)) * np.array([1e-3, 1, 10, 0, 5]).reshape(
        5, 1, 1, 1
    )
    integers, scales = quantise_weights(weight.astype(np.float32))
    restored = integers * scales.reshape(5, 1, 1, 1)
    assert (np.abs(restored - weight).reshape(5, -1).max(axis=1) <= scales / 2 + 1e-9).all()
    assert np.abs(integers).max() == 127


def test_a_dead_channel_keeps_its_bias(calibration) -> None:
    model = blob_network()
    for tensor in model.graph.initializer:
        if tensor.name == "dw.weight":
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
        if tensor.name == "dw.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(8, 0.3, np.float32), tensor.name))
    constants = Graph(quantise(model, calibration, "cpu")).constants
    restored = constants["dw/bias/quantised"] * constants["dw/bias/scale"].astype(np.float64)
    np.testing.assert_allclose(restored, 0.3, rtol=1e-3)


@pytest.mark.parametrize("style", STYLES)
def test_int8_finds_the_same_spots(calibration, style: Style) -> None:
    model, crops = blob_network(), _crops(16, seed=9)
    cams, presence = _run(model, crops)
    quantised = quantise(model, calibration, style, in_float=tail_layers(Graph(model)))
    our_cams, our_presence = _run(quantised, crops)
    assert np.abs(our_cams - cams).max() < 0.05 * np.ptp(cams)
    assert np.abs(our_presence - presence).max() < 0.05
    peaks = (a.reshape(16, 3, -1).argmax(axis=2) for a in (cams, our_cams))
    assert np.mean(np.equal(*peaks)) > 0.8


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_cpu_style_has_integer_biases_and_a_pair_on_every_tensor(calibration) -> None:
    model = quantise(blob_network(), calibration, "cpu", in_float=["head", "presence_head"])
    graph = Graph(model)
    assert graph.constants["stem/bias/quantised"].dtype == np.int32
    assert graph.constants["crops/zero_point"].dtype == np.uint8
    assert {node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"} == set("bdefg") | {
        "crops"
    }


def test_the_trt_style_has_float_biases_and_leaves_fused_tensors_alone(calibration) -> None:
    model = quantise(blob_network(), calibration, "trt", in_float=["head", "presence_head"])
    graph = Graph(model)
    assert not any(array.dtype == np.int32 for array in graph.constants.values())
    assert graph.constants["stem.bias"].dtype == np.float32
    pairs = {node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"}
    assert "a" not in pairs  # between convolution and activation
    assert "e" not in pairs  # between convolution and the residual's addition
    zero_points = [graph.constants[n] for n in graph.constants if n.endswith("/zero_point")]
    assert all(array.dtype == np.int8 and not array.any() for array in zero_points)


def test_a_resize_keeps_its_grid(calibration) -> None:
    graph = Graph(quantise(blob_network(), calibration, "cpu"))
    assert graph.constants["f/scale"] == graph.constants["g/scale"]


def test_layers_in_float_keep_their_weights(calibration) -> None:
    model = blob_network()
    everything = weighted_layers(Graph(model))
    assert everything == ["stem", "dw", "mix", "head", "presence_head"]
    assert tail_layers(Graph(model)) == ["head", "presence_head"]
    graph = Graph(quantise(model, calibration, "cpu", in_float=everything))
    assert not any(array.dtype == np.int8 for array in graph.constants.values())
    graph = Graph(quantise(model, calibration, "cpu", in_float={*everything} - {"mix"}))
    assert [n for n, array in graph.constants.items() if array.dtype == np.int8 and array.ndim == 4] == [
        "mix/weight/quantised"
    ]


def test_a_layer_alone_in_int8_brings_no_pair_elsewhere(calibration) -> None:
    model = blob_network()
    others = {*weighted_layers(Graph(model))} - {"mix"}
    quantised = Graph(quantise(model, calibration, "cpu", in_float=others))
    pairs = {node.input[0] for node in quantised.nodes if node.op_type == "QuantizeLinear"}
    # What the layer reads and makes, and the glue behind it up to the next layer, in float.
    assert pairs == set("debfg")
    everything = quantise(model, calibration, "cpu", in_float=weighted_layers(Graph(model)))
    assert not any(node.op_type == "QuantizeLinear" for node in everything.graph.node)


def _gemm_in_the_middle(**attributes: object) -> onnx.ModelProto:
    """The blob network with its presence over a hidden layer."""
    model = blob_network()
    rng = np.random.default_rng(5)
    weight = rng.normal(0, 1, (8, 8)) * np.array([0.01, 0.1, 1, 1, 2, 3, 5, 10])
    weight = weight.T if attributes.get("transB") else weight
    constants = {"hidden.weight": weight, "hidden.bias": rng.normal(0, 0.1, 8)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()
    )
    *rest, last = model.graph.node
    hidden = onnx.helper.make_node("Gemm", ["i", *constants], ["j"], name="hidden", **attributes)
    last.input[0] = "j"
    nodes = [*rest, hidden, last]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize(
    ("attributes", "quantised"),
    [({}, True), ({"transB": 1}, True), ({"alpha": 0.5}, False), ({"beta": 2.0}, False)],
)
@pytest.mark.parametrize("style", STYLES)
def test_a_hidden_gemm_has_a_scale_for_each_of_its_outputs(
    style: Style, attributes: dict[str, object], quantised: bool
) -> None:
    model = _gemm_in_the_middle(**attributes)
    seen = observe(model, quantised_tensors(Graph(model)), _crops(40))
    ranges = calibration_from(seen, "minmax", crops=40, source_sha256="0" * 64)
    converted = quantise(model, ranges, style, in_float=tail_layers(Graph(model)))
    assert ("hidden/weight/scale" in Graph(converted).constants) == quantised
    crops = _crops(8, seed=3)
    (_, presence), (_, ours) = _run(model, crops), _run(converted, crops)
    assert np.abs(ours - presence).max() < 0.05 * np.ptp(presence)


@pytest.mark.parametrize("style", STYLES)
def test_what_an_integer_layer_makes_for_one_in_float_has_a_pair_on_the_cpu_alone(style: Style) -> None:
    model = _gemm_in_the_middle()
    seen = observe(model, quantised_tensors(Graph(model)), _crops(40))
    ranges = calibration_from(seen, "minmax", crops=40, source_sha256="0" * 64)
    graph = Graph(quantise(model, ranges, style, in_float=["head", "presence_head"]))
    pairs = {node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"}
    assert "i" in pairs  # what it reads
    assert ("j" in pairs) is (style == "cpu")


def test_layers_without_names_are_quantised_too(calibration) -> None:
    model = blob_network()
    for node in model.graph.node:
        node.ClearField("name")
    graph = Graph(model)
    assert len(set(weighted_layers(graph))) == 5
    quantised = Graph(quantise(model, calibration, "cpu", in_float=tail_layers(graph)))
    assert sum(array.dtype == np.int8 and array.ndim == 4 for array in quantised.constants.values()) == 3


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1), (1,), ()])
@pytest.mark.parametrize("style", STYLES)
def test_a_gemm_may_store_its_bias_in_any_form(style: Style, shape: tuple[int, ...]) -> None:
    model = _gemm_in_the_middle()
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "hidden.bias")
    values = onnx.numpy_helper.to_array(bias)[: int(np.prod(shape))].reshape(shape)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    seen = observe(model, quantised_tensors(Graph(model)), _crops(40))
    ranges = calibration_from(seen, "minmax", crops=40, source_sha256="0" * 64)
    converted = quantise(model, ranges, style, in_float=tail_layers(Graph(model)))
    assert "hidden/weight/scale" in Graph(converted).constants
    crops = _crops(8, seed=3)
    (_, presence), (_, ours) = _run(model, crops), _run(converted, crops)
    assert np.abs(ours - presence).max() < 0.05 * np.ptp(presence)


def test_a_bias_with_a_row_for_each_crop_stays_in_float() -> None:
    model = _gemm_in_the_middle()
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "hidden.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros((2, 8), np.float32), bias.name))
    assert "hidden" not in weighted_layers(Graph(model))


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _empty_bias(model: onnx.ModelProto) -> None:
    _node(model, "mix").input[2] = ""


def _no_bias(model: onnx.ModelProto) -> None:
    del _node(model, "mix").input[2:]


def _constants_among_the_inputs(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )


def _computed_weight(model: onnx.ModelProto) -> None:
    mix = _node(model, "mix")
    # The mean of an input, in the shape of a bias: known only when the network runs.
    nodes = [
        onnx.helper.make_node("ReduceMean", ["i"], ["m"], name="m", axes=[0], keepdims=0),
        onnx.helper.make_node("Mul", ["m", "low"], ["computed"], name="zeros"),
    ]
    mix.input[2] = "computed"
    mean = _node(model, "mean")
    order = [n for n in model.graph.node if n.name != "mean"]
    place = order.index(mix)
    order[place:place] = [mean, *nodes]
    copied = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
    del model.graph.node[:]
    model.graph.node.extend(copied)


def _computed_size(model: onnx.ModelProto) -> None:
    up = _node(model, "up")
    nodes = [
        onnx.helper.make_node("Shape", ["b"], ["b.shape"], name="shape"),
        onnx.helper.make_node("Slice", ["b.shape", "two", "four"], ["hw"], name="slice"),
        onnx.helper.make_node("Shape", ["f"], ["f.shape"], name="shape.2"),
        onnx.helper.make_node("Slice", ["f.shape", "none", "two"], ["nc"], name="slice.2"),
        onnx.helper.make_node("Concat", ["nc", "hw"], ["size"], name="join", axis=0),
    ]
    for name, value in (("none", 0), ("two", 2), ("four", 4)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    del up.input[2:]
    up.input.extend(["", "size"])
    order = list(model.graph.node)
    place = order.index(up)
    order[place:place] = nodes
    copied = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
    del model.graph.node[:]
    model.graph.node.extend(copied)


def _an_output_that_is_read_again(model: onnx.ModelProto) -> None:
    last = _node(model, "presence_head")
    model.graph.node.remove(last)
    make = onnx.helper.make_node
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32)[..., None, None], "eye")
    )
    model.graph.node.extend(
        [
            make("Conv", ["cams", "eye"], ["again"], name="again"),
            make("ReduceMean", ["again"], ["presence"], name="mean.2", axes=[2, 3], keepdims=0),
        ]
    )


FORMS = [
    _empty_bias,
    _no_bias,
    _constants_among_the_inputs,
    _computed_weight,
    _computed_size,
    _an_output_that_is_read_again,
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
def test_other_forms_of_the_same_network_are_quantised_too(form, style: Style) -> None:
    model = blob_network()
    form(model)
    crops = _crops(40)
    expected = _run(model, crops[:8])
    seen = observe(model, quantised_tensors(Graph(model)), crops)
    ranges = calibration_from(seen, "minmax", crops=40, source_sha256="0" * 64)
    converted = quantise(model, ranges, style, in_float=tail_layers(Graph(model)))
    assert Graph(converted).constants["stem/weight/quantised"].dtype == np.int8
    for ours, theirs in zip(_run(converted, crops[:8]), expected, strict=True):
        assert np.abs(ours - theirs).max() < 0.06 * max(np.ptp(theirs), 1.0)


def test_the_same_input_gives_the_same_bytes(calibration) -> None:
    one, two = (quantise(blob_network(), calibration, "cpu").SerializeToString() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("low", "high"), [(-3.0, 1.0), (-1.0, 3.0)])
def test_a_grid_reaches_both_ends_of_its_range(style: Style, low: float, high: float) -> None:
    grid = Grid.over(low, high, style)
    ends = np.iinfo(grid.dtype)
    step = float(grid.scale)
    assert step * (float(ends.min) - float(grid.zero_point)) <= low + step
    assert step * (float(ends.max) - float(grid.zero_point)) >= high - step


def test_zero_is_at_the_nearest_integer() -> None:
    assert Grid.over(-1.0, 1.56, "cpu").zero_point == 100  # 99.6 steps above the lowest


def test_every_filter_has_a_scale_of_its_own() -> None:
    weights = np.array([1.0, 10.0, 0.1])[:, None] * np.ones((3, 4))
    np.testing.assert_allclose(quantise_weights(weights)[1], np.array([1.0, 10.0, 0.1]) / 127, rtol=1e-5)


def test_what_is_kept_of_a_tensor_is_of_every_crop_and_from_all_over_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crops = _crops(10)
    monkeypatch.setattr(ranges, "_KEPT", 50)
    seen = observe(blob_network(), ["crops"], crops, batch=4)["crops"]
    flat = crops.reshape(10, -1)
    columns = np.linspace(0, flat.shape[1] - 1, 5).astype(int)
    np.testing.assert_array_equal(seen.kept.reshape(10, 5), flat[:, columns])
