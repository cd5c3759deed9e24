"""Tiny bundles for tests: a network whose every joint is the brightest spot of the crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lfpose_edge.bundle import write_manifest

JOINTS = ("nose", "left_hand", "right_hand")
SIZE = (64, 48)
STRIDE = 4


def spot_network(joints: int = len(JOINTS), stride: int = STRIDE) -> onnx.ModelProto:
    """CAMs are the red channel, averaged over cells; presence is its maximum minus 2."""

    def floats(name: str, values: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(values, np.float32), name)

    red = np.zeros((joints, 3, 1, 1), np.float32)
    red[:, 0] = 1
    nodes = [
        helper.make_node("Conv", ["crops", "red"], ["wide"]),
        helper.make_node("AveragePool", ["wide"], ["cams"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("GlobalMaxPool", ["cams"], ["peaks"]),
        helper.make_node("Flatten", ["peaks"], ["flat"]),
        helper.make_node("Sub", ["flat", "two"], ["presence"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spot",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("cams", TensorProto.FLOAT, ["n", joints, "ch", "cw"]),
            helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["n", joints]),
        ],
        [floats("red", red), floats("two", 2.0)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def spot_facts(**changes: Any) -> dict[str, Any]:
    """The manifest of the spot network, without the computed entries."""
    return {
        "name": "spot",
        "version": "1",
        "joints": {
            "name": "spot3",
            "keypoints": JOINTS,
            "edges": [("nose", "left_hand"), ("nose", "right_hand")],
            "sigmas": (0.05, 0.05, 0.05),
        },
        "input": {"size": SIZE, "mean": (0, 0, 0), "std": (32, 32, 32), "padding": 1.25},
        "decode": {"cam_stride": STRIDE, "upsample": STRIDE, "method": "softargmax"},
        "models": {"fp32": "model.onnx"},
        **changes,
    }


def write_spot_bundle(folder: Path, **changes: Any) -> Path:
    """Write a bundle of the spot network into a new folder."""
    folder.mkdir(parents=True)
    onnx.save(spot_network(), folder / "model.onnx")
    (folder / "card.md").write_text("# spot\n")
    write_manifest(folder, spot_facts(**changes))
    return folder
