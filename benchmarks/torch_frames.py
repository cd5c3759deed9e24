"""From a frame's pixels to joints as usually written in torch: what the GPU runtime is timed against."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import unfused
from numpy.typing import NDArray

from lfpose_edge.bundle import Bundle
from lfpose_edge.geometry import crop_affines
from lfpose_edge.results import StageTimings
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import parse_recipe
from lfpose_edge.train.start import load_bundle_weights


class TorchFrames:
    """A bundle's network in torch, between torch's operators for crop and decode.

    Args:
        bundle: exported from a checkpoint, whose recipe it holds.
        device: where torch works; on a GPU the network computes in float16.
        compiled: whether ``torch.compile`` compiles all three parts as one function.
    """

    def __init__(self, bundle: Bundle, device: str = "cuda", *, compiled: bool = False) -> None:
        recipe = parse_recipe(bundle.manifest.provenance["recipe"], where=str(bundle.path))
        network = build_network(recipe.network, recipe.joints)
        load_bundle_weights(network, bundle)
        self._kind = torch.float16 if device.startswith("cuda") else torch.float32
        self._network = network.eval().to(device, self._kind).to(memory_format=torch.channels_last)
        self._device, self._how, self._decode = device, bundle.manifest.input, bundle.manifest.decode
        self._work: Any = torch.compile(self._joints) if compiled else self._joints

    @torch.inference_mode()
    def __call__(self, frame: NDArray[np.uint8], boxes: NDArray[np.float32]) -> SimpleNamespace:
        """A BGR frame (H, W, 3) and boxes (N, 4) to keypoints, scores, presence and timings."""
        started = perf_counter()
        affines = crop_affines(boxes, self._how.size, padding=self._how.padding)
        up = (torch.from_numpy(a).to(self._device) for a in (frame, affines.astype(np.float32)))
        constants = unfused.crop_constants(
            frame.shape[:2], self._how.size, self._how.mean, self._how.std, self._device
        )
        joints = self._work(*up, constants)
        queued = perf_counter()
        keypoints, scores, presence = (values.cpu().numpy() for values in joints)
        times = StageTimings(preprocess_ms=(queued - started) * 1e3, infer_ms=(perf_counter() - queued) * 1e3)
        return SimpleNamespace(keypoints=keypoints, scores=scores, presence=presence, timings=times)

    def _joints(
        self, frame: torch.Tensor, affines: torch.Tensor, constants: unfused.CropConstants
    ) -> tuple[torch.Tensor, ...]:
        decode = self._decode
        crops = unfused.crop(frame, affines, self._how.size, constants)
        output = self._network(crops.to(self._kind, memory_format=torch.channels_last))
        return unfused.decode(
            output[0].float(), output[1].float(), affines, decode.upsample, decode.blur_sigma
        )


def torch_ways(bundle: Bundle) -> dict[str, TorchFrames]:
    """The torch versions to compare with on this machine's first GPU."""
    name = torch.cuda.get_device_name()
    return {
        f"{way} {torch.__version__} cuda:0 ({name}) fp16": TorchFrames(bundle, compiled=compiled)
        for way, compiled in (("torch-eager", False), ("torch-compile", True))
    }
