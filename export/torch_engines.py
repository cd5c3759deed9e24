"""Torch-TensorRT: compile the network in torch, without ONNX, for machines that serve with torch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx
from lfpose_edge.export import on_gpu
from lfpose_edge.export.on_gpu import BuiltEngine
from lfpose_edge.export.proof import session

from lfpose_edge.backends.engine_cache import Gpu
from lfpose_edge.backends.engine_files import Fingerprint
from lfpose_edge.backends.tensorrt_api import BuildOptions
from lfpose_edge.backends.torch_tensorrt import SUFFIX, library_unavailable
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.files import whole_file, write_json_whole

if TYPE_CHECKING:
    import torch


def unavailable() -> str | None:
    """Why Torch-TensorRT cannot compile here, with what to do; None when it can."""
    reason = library_unavailable()
    if reason:
        return reason
    import torch

    if on_gpu.DEVICE == "cuda" and not torch.cuda.is_available():
        return "torch_tensorrt compiles for the GPU that is here, and torch sees none"
    return None


def build_torch_engine(network: torch.nn.Module, bundle: Bundle, options: BuildOptions) -> BuiltEngine:
    """Compile a network in half precision into a bundle's ``engines`` folder.

    The result is a ``torch.export`` program with TensorRT engines inside, for ``torch_tensorrt.load``: crops
    (N, 3, H, W) float32 to CAM logits and presence logits, float32, N within ``options.batches``.

    Args:
        network: the trained network.
        bundle: the bundle exported from it; its fp32 file is part of the fingerprint.
        options: batches and workspace.

    Raises:
        BackendUnavailable: Torch-TensorRT or a GPU is missing.
        AccuracyGateError: the engine does not compute what the network computes.
    """
    reason = unavailable()
    if reason:
        raise BackendUnavailable(reason)
    import torch
    import torch_tensorrt

    half = _in_half(network).to(on_gpu.DEVICE)
    least, usual, most = ((n, 3, *bundle.manifest.input.size) for n in options.batches)
    crops = torch_tensorrt.Input(
        min_shape=least, opt_shape=usual, max_shape=most, dtype=torch.float32, name="crops"
    )
    engine = torch_tensorrt.compile(
        half, ir="dynamo", inputs=[crops], use_explicit_typing=True, workspace_size=options.workspace_mb << 20
    )

    def infer(crops: on_gpu.Floats) -> tuple[on_gpu.Floats, on_gpu.Floats]:
        with torch.no_grad():
            cams, presence = engine(torch.from_numpy(crops).to(on_gpu.DEVICE))
        return cams.cpu().numpy(), presence.cpu().numpy()

    reference = session(onnx.load(bundle.model_file("fp32")))
    on_gpu.require_parity("torch_tensorrt fp16", infer, reference, bundle.manifest.input)
    gpu = _gpu_here().label if on_gpu.DEVICE == "cuda" else on_gpu.DEVICE
    fingerprint = Fingerprint(
        model_sha256=bundle.manifest.files[bundle.manifest.models["fp32"]].sha256,
        library="torch_tensorrt",
        version=torch_tensorrt.__version__,
        gpu=gpu,
        precision="fp16",
        batches=options.batches,
        size=bundle.manifest.input.size,
    )
    path = bundle.path / "engines" / f"{fingerprint.key}{SUFFIX}"
    with whole_file(path) as temporary:
        torch_tensorrt.save(engine, str(temporary), output_format="exported_program", retrace=False)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        write_json_whole(path.with_suffix(".json"), {**vars(fingerprint), "engine_sha256": digest})
    return BuiltEngine(path, f"torch_tensorrt {torch_tensorrt.__version__} fp16 {gpu}", infer)


def _gpu_here() -> Gpu:
    """The GPU that torch computes on."""
    import torch

    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(facts.name, (facts.major, facts.minor), facts.multi_processor_count)


def _in_half(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network that computes in float16 between float32 crops and float32 logits."""
    import copy

    import torch

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network).half()

        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.network(crops.half())
            return output[0].float(), output[1].float()

    return Half().eval()
