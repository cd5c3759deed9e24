"""Engines that can run on the GPU that is here: run, and compared with the ONNX that they were built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.backends.tensorrt_api import Engine, TensorRt
from lfpose_edge.errors import AccuracyGateError

Floats = NDArray[np.float32]
Infer = Callable[[Floats], tuple[Floats, Floats]]
"""Crops (N, 3, H, W) to CAM logits (N, K, h, w) and presence logits (N, K)."""

DEVICE = "cuda"
_LARGEST_PROBABILITY_ERROR = 0.05  # half precision moves a cell's probability by less; a wrong graph by more
_CROPS = 3


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in a bundle.

    Attributes:
        path: its file.
        label: such as ``tensorrt 10.3.0 int8``.
        infer: runs it; None where the GPU that it was built for is not here.
    """

    path: Path
    label: str
    infer: Infer | None


def has_gpu(compute_capability: str | None) -> bool:
    """Whether torch sees a GPU here, of this compute capability (``SM86``) if one is named."""
    import torch

    if DEVICE != "cuda":
        return True
    if not torch.cuda.is_available():
        return False
    major, minor = torch.cuda.get_device_capability()
    return compute_capability in (None, f"SM{major}{minor}")


def engine_session(tensorrt: TensorRt, plan: bytes, joints: int, cells: tuple[int, int]) -> Infer:
    """An engine as a function of crops, with torch's device memory.

    Args:
        tensorrt: built it.
        plan: the engine.
        joints: K.
        cells: the CAMs' height and width.
    """
    import torch

    engine = Engine(tensorrt, plan).new_context()

    def infer(crops: Floats) -> tuple[Floats, Floats]:
        tensors = {
            "crops": torch.from_numpy(np.ascontiguousarray(crops)).to(DEVICE),
            "cams": torch.empty((len(crops), joints, *cells), device=DEVICE),
            "presence": torch.empty((len(crops), joints), device=DEVICE),
        }
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        engine.enqueue(shapes, addresses, torch.cuda.current_stream().cuda_stream if DEVICE == "cuda" else 0)
        cams, presence = (
            tensors[name].cpu().numpy() for name in ("cams", "presence")
        )  # waits for the stream
        return cams, presence

    return infer


def require_parity(label: str, infer: Infer, reference: Infer, size: tuple[int, int]) -> None:
    """AccuracyGateError when an engine does not compute what its reference computes, on random crops."""
    crops = np.random.default_rng(0).normal(size=(_CROPS, 3, *size)).astype(np.float32)
    pairs = zip(infer(crops), reference(crops), strict=True)
    worst = float(np.max([np.abs(_sigmoid(a) - _sigmoid(b)).max() for a, b in pairs]))  # NaN stays NaN
    if not worst <= _LARGEST_PROBABILITY_ERROR:
        message = (
            f"the engine {label} differs from the ONNX file that it was built from by {worst:.3g} in a "
            f"probability (allowed {_LARGEST_PROBABILITY_ERROR}); nothing was written"
        )
        raise AccuracyGateError(message)


def _sigmoid(logits: Floats) -> Floats:
    return (0.5 + 0.5 * np.tanh(0.5 * logits)).astype(np.float32)
