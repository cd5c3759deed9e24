"""Run engines on the GPU that is here, and compare them with the ONNX files that they were built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lfpose_edge.export.crops import cut_crops
from numpy.typing import NDArray

from lfpose_edge.backends.tensorrt_api import Engine, TensorRt
from lfpose_edge.bundle import Input
from lfpose_edge.errors import AccuracyGateError
from lfpose_edge.persons import unlabelled_persons
from lfpose_edge.skeleton import Skeleton
from lfpose_edge.zoo import SHIPPED

Floats = NDArray[np.float32]
Infer = Callable[[Floats], tuple[Floats, Floats]]
"""Crops (N, 3, H, W) to CAM logits (N, K, h, w) and presence logits (N, K)."""

DEVICE = "cuda"
LARGEST_ERROR = (
    0.25  # of the CAMs' own variation; half precision and INT8 stay below, a wrong graph is above 1
)
LEAST_VARIATION = 0.1  # logits; maps of a network that learned nothing are flat
LARGEST_PRESENCE_ERROR = 0.05  # of a probability
PHOTO = SHIPPED / "photos" / "astronaut.jpg"
_BOXES = ((60, 0, 420, 512), (0, 0, 512, 512), (120, 20, 360, 300), (0, 100, 512, 460))


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in a bundle.

    Attributes:
        path: its file.
        label: such as ``tensorrt 10.3.0 int8 SM86``.
        infer: runs it; None if the GPU that it was built for is not here.
        stand_in: if the GPU is not here, computes what an fp16 engine should compute, in half precision in
            ONNX Runtime. INT8 needs none: its ONNX file is judged anyway.
    """

    path: Path
    label: str
    infer: Infer | None
    stand_in: Infer | None = None


def has_gpu(compute_capability: str | None) -> bool:
    """Whether torch sees a GPU here, of this compute capability (``SM86``) if one is named."""
    import torch

    if DEVICE != "cuda":
        return True
    if not torch.cuda.is_available():
        return False
    major, minor = torch.cuda.get_device_capability()
    return compute_capability in (None, f"SM{major}{minor}")


def engine_session(
    tensorrt: TensorRt,
    plan: bytes,
    joints: int,
    cells: tuple[int, int],
    most: int,
    dla_core: int | None = None,
) -> Infer:
    """An engine as a function of crops, with torch's device memory.

    Args:
        tensorrt: the TensorRT that built it.
        plan: the engine.
        joints: K.
        cells: the CAMs' height and width.
        most: largest batch that it takes; more crops are passed to it in several parts.
        dla_core: the DLA core that it was built for, if any.
    """
    import torch

    engine = Engine(tensorrt, plan, dla_core).new_context()

    def infer_part(crops: Floats) -> tuple[Floats, Floats]:
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

    def infer(crops: Floats) -> tuple[Floats, Floats]:
        parts = [infer_part(crops[first : first + most]) for first in range(0, len(crops), most)]
        cams, presence = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cams, presence

    return infer


def require_parity(label: str, infer: Infer, reference: Infer, how: Input) -> None:
    """Raise AccuracyGateError if an engine does not compute what its reference computes on crops of a photo.

    Noise would not do: its maps are nearly flat, so that shifted, mirrored or mixed-up maps would go unseen.
    """
    boxes, anybody = np.array(_BOXES, np.float64), Skeleton("person", ("middle",), (), (0.1,))
    people = unlabelled_persons([PHOTO] * len(boxes), boxes, anybody)
    crops = cut_crops(people, how).crops
    (cams, presence), (true_cams, true_presence) = infer(crops), reference(crops)
    variation = true_cams.std(axis=(2, 3)).mean()
    apart = np.sqrt(((cams - true_cams) ** 2).mean(axis=(2, 3))) / max(variation, LEAST_VARIATION)
    found = float(apart.max()), float(np.abs(_sigmoid(presence) - _sigmoid(true_presence)).max())
    if not (found[0] <= LARGEST_ERROR and found[1] <= LARGEST_PRESENCE_ERROR):  # NaN fails, too
        message = (
            f"the engine {label} differs from the ONNX file that it was built from: its CAMs by "
            f"{found[0]:.3g} of their variation (allowed {LARGEST_ERROR}), its presence by {found[1]:.3g} "
            f"(allowed {LARGEST_PRESENCE_ERROR}); nothing was written"
        )
        raise AccuracyGateError(message)


def _sigmoid(logits: Floats) -> Floats:
    return (0.5 + 0.5 * np.tanh(0.5 * logits)).astype(np.float32)
