"""A small pose network with every kind of operator that quantisation knows, whose joints are bright spots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from bundles import spot_facts
from onnx import TensorProto, helper, numpy_helper

from lfpose_edge.bundle import write_manifest

CHANNELS = 8
JOINTS = 3


def blob_network() -> onnx.ModelProto:
    """Smoothed red, over two convolutions, a residual, a concatenation and a resize; presence is its mean."""
    rng = np.random.default_rng(0)
    bell = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    stem = np.zeros((CHANNELS, 3, 3, 3), np.float32)
    stem[:, 0] = bell * rng.uniform(0.5, 1.5, (CHANNELS, 1, 1))
    depthwise = np.tile(bell, (CHANNELS, 1, 1, 1)) * rng.uniform(0.5, 1.5, (CHANNELS, 1, 1, 1))
    mix = rng.uniform(0.05, 0.2, (CHANNELS, CHANNELS, 1, 1))
    head = rng.uniform(0.1, 0.3, (JOINTS, 2 * CHANNELS, 1, 1))
    constants = {
        "stem.weight": stem,
        "stem.bias": rng.normal(0, 0.02, CHANNELS),
        "dw.weight": depthwise,
        "dw.bias": rng.normal(0, 0.02, CHANNELS),
        "mix.weight": mix,
        "mix.bias": np.zeros(CHANNELS),
        "head.weight": head,
        "head.bias": np.full(JOINTS, -2.0),
        "presence.weight": rng.uniform(0, 1, (JOINTS, CHANNELS)),
        "presence.bias": np.full(JOINTS, 2.0),
        "low": np.array(0.0),
        "high": np.array(6.0),
        "twice": np.array([1.0, 1.0, 2.0, 2.0]),
    }
    same = {"pads": [1, 1, 1, 1]}
    make = helper.make_node
    nodes = [
        make("Conv", ["crops", "stem.weight", "stem.bias"], ["a"], name="stem", strides=[4, 4], **same),
        make("Clip", ["a", "low", "high"], ["b"], name="relu6.1"),
        make("Conv", ["b", "dw.weight", "dw.bias"], ["c"], name="dw", group=CHANNELS, strides=[2, 2], **same),
        make("Clip", ["c", "low", "high"], ["d"], name="relu6.2"),
        make("Conv", ["d", "mix.weight", "mix.bias"], ["e"], name="mix"),
        make("Add", ["d", "e"], ["f"], name="add"),
        make("Resize", ["f", "", "twice"], ["g"], name="up", mode="nearest", nearest_mode="floor"),
        make("Concat", ["b", "g"], ["h"], name="cat", axis=1),
        make("Conv", ["h", "head.weight", "head.bias"], ["cams"], name="head"),
        make("ReduceMean", ["d"], ["i"], name="mean", axes=[2, 3], keepdims=0),
        make("Gemm", ["i", "presence.weight", "presence.bias"], ["presence"], name="presence_head", transB=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "blob",
        [info("crops", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [
            info("cams", TensorProto.FLOAT, ["n", JOINTS, "ch", "cw"]),
            info("presence", TensorProto.FLOAT, ["n", JOINTS]),
        ],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_blob_bundle(folder: Path) -> Path:
    """A bundle of the blob network: 64x48 crops, stride 4."""
    folder.mkdir(parents=True)
    onnx.save(blob_network(), folder / "model.onnx")
    (folder / "card.md").write_text("# blob\n")
    facts = spot_facts(
        name="blob", input={"size": (64, 48), "mean": (0,) * 3, "std": (64,) * 3, "padding": 1.0}
    )
    write_manifest(folder, facts)
    return folder


def spot_image(rng: np.random.Generator, height: int = 64, width: int = 48) -> np.ndarray:
    """A BGR image with one red spot on noise."""
    y, x = np.mgrid[:height, :width]
    cx, cy = rng.uniform(8, width - 8), rng.uniform(8, height - 8)
    spot = 220 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 5.0**2))
    image = rng.integers(0, 20, (height, width, 3)).astype(np.float64)
    image[..., 2] += spot
    return image.clip(0, 255).astype(np.uint8)
