"""The whole export: checkpoint to ONNX, checked against the network, as a bundle that appears whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from lfpose_edge.export.to_onnx import to_onnx

from lfpose_edge.backends import Request, load_backend
from lfpose_edge.bundle import Bundle, write_manifest
from lfpose_edge.errors import AccuracyGateError, BundleError

_DECODE = {"upsample": 4, "method": "dark", "blur_sigma": 1.0, "window": 2, "presence_threshold": 0.5}
_LARGEST_LOGIT_ERROR = 0.05  # float16 weights change CAM logits by less than this; a wrong graph by far more


def export_bundle(checkpoint: Path, out: Path, *, card: Path | None = None, version: str = "1") -> Bundle:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: a ``last.pt`` of ``lfpose train``; its averaged weights are exported.
        out: the bundle's folder; it must not exist, or be empty.
        card: a Markdown file that becomes the bundle's ``card.md``.
        version: the model's version, for the manifest.

    Raises:
        BundleError: the checkpoint cannot be read, or ``out`` is in use.
        AccuracyGateError: the ONNX file does not compute what the network computes; nothing is written.
    """
    import onnx
    import torch

    from lfpose_edge.train.checkpoint import load_checkpoint
    from lfpose_edge.train.networks import build_network
    from lfpose_edge.train.recipe import parse_recipe

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} exists; choose another --out, or remove it"
        raise BundleError(message)
    state = load_checkpoint(checkpoint)
    recipe = parse_recipe(state["recipe"], where=str(checkpoint))
    network = build_network(recipe.network, len(recipe.joints), pretrained=False)
    try:
        network.load_state_dict(state["ema"])
    except RuntimeError as error:
        message = f"{checkpoint} does not hold the network that its recipe describes: {error}"
        raise BundleError(message) from error
    network.eval()

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        onnx.save(to_onnx(network, recipe.input_size), folder / "model.onnx")
        if card is not None:
            shutil.copyfile(card, folder / "card.md")
        write_manifest(folder, _facts(recipe, network, state, version))
        bundle = Bundle.open(folder)

        crops = torch.randn(3, 3, *recipe.input_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = [t.numpy() for t in network(crops)[:2]]  # cams and presence
        backend = load_backend(bundle, "onnxruntime", Request(precision="fp32"))
        worst = max(
            float(np.abs(a - b).max()) for a, b in zip(backend.infer(crops.numpy()), expected, strict=True)
        )
        backend.close()
        if not worst <= _LARGEST_LOGIT_ERROR:
            message = (
                f"the exported ONNX differs from the network by {worst:.3g} logits "
                f"(allowed {_LARGEST_LOGIT_ERROR}); nothing was written"
            )
            raise AccuracyGateError(message)
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    return Bundle.open(out)


def _facts(recipe: Any, network: Any, state: dict[str, Any], version: str) -> dict[str, Any]:
    joints = recipe.joints
    return {
        "name": recipe.name,
        "version": version,
        "joints": {
            "name": joints.name,
            "keypoints": joints.keypoints,
            "edges": joints.edges,
            "sigmas": joints.sigmas,
        },
        "input": {
            "size": recipe.input_size,
            "color": "rgb",
            "mean": network.backbone.pixel_mean,
            "std": network.backbone.pixel_std,
            "padding": recipe.data.padding,
        },
        "decode": {"cam_stride": network.cam_stride, **_DECODE},
        "models": {"fp32": "model.onnx"},
        "provenance": {"recipe": state["recipe"], "steps": state["step"]},
    }
