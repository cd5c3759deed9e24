"""lfpose-export of an ONNX file from elsewhere: simplified, checked, and nothing taken from its name."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from lfpose_edge.export import to_onnx
from nets import blob_network, write_blob_bundle

from lfpose_edge.bundle import Bundle


def test_an_onnx_file_is_exported_like_a_bundle(run, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    onnx.save(blob_network(), tmp_path / "mine.onnx")
    assert run("mine.onnx", "--out", "b", "--like", "blob")[0] == 0
    # The bundle it is like has another network.
    assert Bundle.open(tmp_path / "b").manifest.name == "mine"


def test_a_simplifier_that_changes_the_network_is_found_out(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxsim

    def wrong(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        model = copy.deepcopy(model)
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
        weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
        return model, True

    monkeypatch.setattr(onnxsim, "simplify", wrong)
    write_blob_bundle(tmp_path / "blob")
    onnx.save(blob_network(), tmp_path / "mine.onnx")
    code, _, err = run("mine.onnx", "--out", "b", "--like", "blob")
    assert (code, "computes something else once it is simplified" in err) == (1, True)
    assert not (tmp_path / "b").exists()


def _with_a_constant_chain(halved: bool) -> onnx.ModelProto:
    """The blob network whose first weights come out of a chain of constants."""
    model = blob_network()
    kind = onnx.TensorProto.FLOAT16 if halved else onnx.TensorProto.FLOAT
    dtype = np.float16 if halved else np.float32
    for tensor in model.graph.initializer:
        if tensor.name == "stem.weight":
            weight = onnx.numpy_helper.to_array(tensor).astype(dtype) / dtype(2)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "half.weight"))
    make = onnx.helper.make_node
    cast = make("Cast", ["half.weight"], ["chain"], name="cast", to=onnx.TensorProto.FLOAT)
    double = make("Add", ["chain", "chain"], ["stem.weight"], name="double")
    assert kind in (tensor.data_type for tensor in model.graph.initializer)
    nodes = [cast, double, *model.graph.node]
    copied = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copied)
    return model


@pytest.mark.parametrize("halved", [True, False])
def test_an_onnx_file_is_simplified(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halved: bool
) -> None:
    monkeypatch.setattr(to_onnx, "SMALLEST_TO_HALVE", 200)  # so that the blob's weights are large
    write_blob_bundle(tmp_path / "blob")
    onnx.save(_with_a_constant_chain(halved), tmp_path / "mine.onnx")
    code, _, err = run("mine.onnx", "--out", "b", "--like", "blob")
    assert code == 0, err
    graph = onnx.load(tmp_path / "b/model.onnx").graph
    assert "double" not in [node.name for node in graph.node]
    stored = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    assert (onnx.TensorProto.FLOAT16 in stored) == halved


def test_weights_are_stored_as_halves_where_nothing_is_lost() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "half": rng.normal(size=300).astype(np.float16).astype(np.float32),
        "full": rng.normal(size=300),
    }
    model = blob_network()
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()
    )
    to_onnx.store_as_half(model, exactly=True)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert stored["half_half"].dtype == np.float16
    np.testing.assert_array_equal(stored["half_half"].astype(np.float32), weights["half"])
    assert stored["full"].dtype == np.float32
    assert [n.output[0] for n in model.graph.node if n.op_type == "Cast"] == ["half"]


def test_without_onnxsim_the_export_says_that_it_is_left_out(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    write_blob_bundle(tmp_path / "blob")
    onnx.save(_with_a_constant_chain(False), tmp_path / "mine.onnx")
    assert run("mine.onnx", "--out", "b", "--like", "blob")[0] == 0
    assert "onnxsim is not installed: the graph of mine.onnx is not simplified" in caplog.text
    assert "double" in [node.name for node in onnx.load(tmp_path / "b/model.onnx").graph.node]


def test_a_simplifier_that_fails_is_done_without(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxsim

    def fail(_: onnx.ModelProto) -> NoReturn:
        message = "no such thing\nin many lines"
        raise RuntimeError(message)

    monkeypatch.setattr(onnxsim, "simplify", fail)
    write_blob_bundle(tmp_path / "blob")
    onnx.save(blob_network(), tmp_path / "mine.onnx")
    assert run("mine.onnx", "--out", "b", "--like", "blob")[0] == 0
    assert "onnxsim cannot simplify mine.onnx, which is exported as it is: no such thing" in caplog.messages


def test_control_flow_is_refused_by_name(run, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    model = blob_network()
    last = next(node for node in model.graph.node if node.name == "presence_head")
    last.output[0] = "plain"
    make, graph = onnx.helper.make_node, onnx.helper.make_graph
    branch = [onnx.helper.make_tensor_value_info("branch", onnx.TensorProto.FLOAT, None)]
    ways = {
        f"{way}_branch": graph([make("Identity", ["plain"], ["branch"])], way, [], branch)
        for way in ("then", "else")
    }
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(make("If", ["yes"], ["presence"], name="choice", **ways))
    onnx.save(model, tmp_path / "mine.onnx")
    code, _, err = run("mine.onnx", "--out", "b", "--like", "blob")
    assert (code, "node 'choice' (If) holds graphs of its own" in err) == (1, True)


def test_an_onnx_file_tells_nothing_of_the_machine_that_made_it(run, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    model = blob_network()
    model.graph.node[0].doc_string = model.producer_name = "/home/somebody/secret.py"
    entry = model.metadata_props.add()
    entry.key = entry.value = "secret"
    onnx.save(model, tmp_path / "mine.onnx")
    assert run("mine.onnx", "--out", "b", "--like", "blob")[0] == 0
    assert b"secret" not in (tmp_path / "b/model.onnx").read_bytes()
    assert not onnx.load(tmp_path / "b/model.onnx").metadata_props  # nor of the simplifier


def _one_crop_only(model: onnx.ModelProto) -> None:
    size = onnx.numpy_helper.from_array(np.array([1, 3, 16, 12], np.int64), "one")
    model.graph.initializer.append(size)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "one"], ["cams"], name="fix"))
    next(node for node in model.graph.node if node.name == "head").output[0] = "before"


def _fewer_cells(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.name == "head").attribute.append(
        onnx.helper.make_attribute("strides", [2, 2])
    )


@pytest.mark.parametrize(
    ("ruin", "words"),
    [
        (_one_crop_only, "mine.onnx does not run on a batch of 3 crops of 64x48"),
        (_fewer_cells, "cam_stride 4 cams and presence must have shapes [(1, 3, 16, 12), (1, 3)]"),
    ],
)
def test_an_onnx_file_that_is_not_what_the_bundle_says_is_refused(
    run, tmp_path: Path, ruin, words: str
) -> None:
    write_blob_bundle(tmp_path / "blob")
    model = blob_network()
    ruin(model)
    onnx.save(model, tmp_path / "mine.onnx")
    code, _, err = run("mine.onnx", "--out", "b", "--like", "blob")
    assert code == 1
    assert words in err
    assert not (tmp_path / "b").exists()


def test_an_onnx_file_of_an_old_opset_is_converted(run, tmp_path: Path) -> None:
    bundle = write_blob_bundle(tmp_path / "blob")
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(
            """
            blob (float[n, 3, h, w] crops) => (float[n, 3, ch, cw] cams, float[n, 3] presence) {
                cams = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(crops)
                peaks = GlobalMaxPool(cams)
                presence = Flatten<axis = 1>(peaks)
            }
            """
        ),
        opset_imports=[onnx.helper.make_opsetid("", 11)],
        ir_version=7,
    )
    onnx.save(model, tmp_path / "old.onnx")
    code, _, err = run("old.onnx", "--out", "b", "--like", bundle)
    assert code == 0, err
    assert onnx.load(tmp_path / "b/model.onnx").opset_import[0].version == 17
