"""The whole export: turn a source into a bundle, which is verified before it appears."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lfpose_edge.export.adjust import equalise
from lfpose_edge.export.calibration import load_calibration_set, load_proof
from lfpose_edge.export.engines import Engines, build_engines, require, require_network
from lfpose_edge.export.graph import Graph
from lfpose_edge.export.people import require_people
from lfpose_edge.export.proof import Judge, Show, session, silent
from lfpose_edge.export.quantize import quantised_tensors
from lfpose_edge.export.ranges import RangeMethod, observe
from lfpose_edge.export.report import Report, write_report
from lfpose_edge.export.search import Quantised, quantise_within
from lfpose_edge.export.source import Source, open_source
from lfpose_edge.export.to_onnx import store_as_half

from lfpose_edge.backends import Request, load_backend
from lfpose_edge.backends.tensorrt_calls import Steps
from lfpose_edge.bundle import VERSION, Bundle, Decode, Input, JointSet, write_manifest
from lfpose_edge.errors import AccuracyGateError, BundleError
from lfpose_edge.files import whole_folder
from lfpose_edge.skeleton import Skeleton

_LARGEST_LOGIT_ERROR = 0.05  # float16 weights change CAM logits by less than this; a wrong graph by far more
_TUNING_CROPS = 64
_CORRECTION_CROPS = 32


@dataclass(frozen=True)
class Int8:
    """How a model is quantised; see :func:`lfpose_edge.export.calibration.load_calibration_set`.

    Attributes:
        calibration: name, folder, JSON or ``.npz`` of the calibration set.
        data_root: folder that the paths of named sets are relative to.
        images: folder of the JSON's images.
        detector: person detector for a folder of images.
        crops: largest number of crops for the ranges.
        method: how ranges are chosen; None tries every method and takes the best.
        equalise, correct_biases: adjustments before quantising; see :mod:`lfpose_edge.export.adjust`.
    """

    calibration: str
    data_root: Path
    images: Path | None = None
    detector: str | None = None
    crops: int = 512
    method: RangeMethod | None = None
    equalise: bool = False
    correct_biases: bool = False


def export_bundle(
    source: str | Path,
    out: Path,
    *,
    int8: Int8 | None = None,
    proof: tuple[Path, Path] | None = None,
    max_drop: float = 0.5,
    engines: Engines | None = None,
    card: Path | None = None,
    name: str | None = None,
    version: str | None = None,
    like: str | None = None,
    show: Show[Any] = silent,
    steps: Steps | None = None,
) -> Bundle:
    """Export a model as a bundle.

    Args:
        source: a ``last.pt`` of ``lfpose train`` (its averaged weights are exported), a bundle's folder, a
            shipped model's name, or an fp32 ONNX file.
        out: the bundle's folder; it must be empty or not exist.
        int8: how to quantise; None makes an fp32 bundle.
        proof: COCO-keypoints JSON and images folder of the persons that the export is judged on, for the
            report. When not given, INT8 is judged on the held-out part of its calibration set, and an fp32
            bundle is not judged.
        max_drop: points that INT8 or an engine may lose, in PCK and in presence accuracy each. Where nothing
            is labelled, the PCK loss is the percentage of joints that moved.
        engines: TensorRT engines to build into the bundle.
        card: a Markdown file that becomes the bundle's ``card.md``; the source's own when not given.
        name: the model's name, for the manifest; the recipe's or the bundle's own when not given.
        version: the model's version, likewise; 1 for a checkpoint when not given.
        like: for an ONNX file, the bundle whose joints, input and decode it shares.
        show: shows the progress of long loops.
        steps: shows the progress of an engine's build; see :func:`build_engines`.

    Raises:
        BundleError: the source cannot be read, or ``out`` is in use.
        BackendUnavailable: the requested TensorRT is not available, or cannot build these engines.
        CalibrationError: the calibration set is missing or too small.
        AccuracyGateError: the export does not compute what the source computes, or INT8 or an engine loses
            more than ``max_drop``; nothing is written.
    """
    import onnx

    out = out.resolve()  # the folder beside a bare "." would be inside it
    _require_free(out)
    given = {key: value for key, value in {"name": name, "version": version}.items() if value is not None}
    for key, value in given.items():
        if not re.match(VERSION, value):
            message = f"--{key} must be letters, digits and . + - _, got {value!r}"
            raise BundleError(message)
    if engines is not None:
        require(engines)  # before the long work, not after it
    opened = open_source(str(source), like)
    if engines is not None:
        require_network(engines.kind, opened.network)
    _require_finite(opened, str(source))
    _require_runs(opened, str(source))
    facts: dict[str, Any] = {"version": "1", **opened.facts, **given, "models": {"fp32": "model.onnx"}}
    with whole_folder(out) as folder:
        onnx.save(opened.model, folder / "model.onnx")
        if card is not None:
            shutil.copyfile(card, folder / "card.md")
        elif opened.card is not None:
            (folder / "card.md").write_text(
                _derived_card({"version": "1", **opened.facts}, opened.card), encoding="utf-8"
            )
        report = None
        if int8 is not None:
            report = _quantise(opened, int8, proof, max_drop, folder, facts, show)
        elif proof is not None:
            report = _in_float(opened, proof, max_drop, facts, show)
        write_manifest(folder, facts)
        bundle = Bundle.open(folder)
        if opened.network is not None:
            _require_parity(bundle, opened.network)
        built = build_engines(bundle, engines, opened.network, steps) if engines else []
        if report is not None:
            write_report(folder, report, bundle, built)
        _require_free(out)
    return Bundle.open(out)


def _in_float(
    source: Source, proof: tuple[Path, Path], max_drop: float, facts: dict[str, Any], show: Show[Any]
) -> Report:
    """The report of an fp32 export, judged on the persons of ``proof``."""
    model = Graph(source.model).to_model()
    skeleton, decode, how = _sections(facts)
    held_out = load_proof(proof, how, skeleton, progress=lambda items: show(items, "cutting crops"))
    judge = Judge(held_out, skeleton, decode)
    judge.require_points(judge.predict(session(model)))
    return Report(held_out, judge, model, max_drop, source.network)


def _sections(facts: dict[str, Any]) -> tuple[Skeleton, Decode, Input]:
    skeleton = Skeleton(**JointSet.model_validate(facts["joints"]).model_dump())
    return skeleton, Decode.model_validate(facts["decode"]), Input.model_validate(facts["input"])


def _quantise(
    source: Source,
    how: Int8,
    proof: tuple[Path, Path] | None,
    max_drop: float,
    folder: Path,
    facts: dict[str, Any],
    show: Show[Any],
) -> Report:
    import onnx

    graph = Graph(source.model)
    model = graph.to_model()  # float32 constants, as every engine sees them
    equalised = None
    if how.equalise:
        model, equalised = equalise(model)
    skeleton, decode, crops = _sections(facts)
    data = load_calibration_set(
        how.calibration,
        crops,
        skeleton,
        data_root=how.data_root,
        images=how.images,
        proof=proof,
        detector=how.detector,
        limit=how.crops,
        progress=lambda items: show(items, "cutting crops"),
    )
    tuning = data.crops.part(range(min(_TUNING_CROPS, len(data.crops))))
    if not data.crops.persons.labelled.any():
        require_people(session(model), tuning, skeleton, decode, how.calibration)
    seen = observe(
        model,
        quantised_tensors(graph),
        data.crops.crops,
        progress=lambda items: show(items, "observing activations"),
    )
    held_out = Judge(data.held_out, skeleton, decode)
    quantised: Quantised = quantise_within(
        model,
        seen,
        method=how.method,
        tuning=Judge(tuning, skeleton, decode),
        held_out=held_out,
        max_drop=max_drop,
        crops=len(data.crops),
        source_sha256=data.crops.sha256,
        correct_with=data.crops.crops[:_CORRECTION_CROPS] if how.correct_biases else None,
        show=show,
    )
    for style, quantised_model in quantised.models.items():
        name = f"model.int8-{style}.onnx"
        if style == "cpu":  # the float file stores its weights as float16 already
            store_as_half(quantised_model, exactly=True)
        onnx.save(quantised_model, folder / name)
        facts["models"] = {**facts["models"], f"int8-{style}": name}
    quantised.calibration.write(folder / "calibration.json")
    facts["provenance"] = {
        **facts["provenance"],
        "int8": {
            # The name only: a bundle should not reveal paths on this machine.
            "calibration": Path(how.calibration).resolve().name,
            "crops": len(data.crops),
            "sha256": data.crops.sha256,
            "ranges": quantised.calibration.method,
            "in_float": quantised.in_float,
            "equalised_pairs": equalised,
            "biases_corrected": how.correct_biases,
        },
    }
    return Report(data.held_out, held_out, model, max_drop, source.network, data, quantised)


def _derived_card(facts: dict[str, Any], source: Path) -> str:
    """The source model's card, under a note that says so."""
    name = f"`{facts['name']}` version {facts['version']}"
    note = (
        f"> Exported anew from {name}. What follows is that model's card: its files, precisions and speeds "
        "are not this bundle's. See `manifest.json`, and `report.md` where there is one."
    )
    text = source.read_text(encoding="utf-8")
    return text if text.startswith("> Exported anew") else f"{note}\n\n{text}"


def _require_finite(source: Source, name: str) -> None:
    """Refuse NaN or infinite weights, which a diverged training leaves behind."""
    for tensor, values in Graph(source.model).constants.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            message = f"{name}: {tensor} holds weights that are not finite; nothing was written"
            raise BundleError(message)


def _require_runs(source: Source, name: str) -> None:
    """Run the source on one crop and on three; the output shapes must match what the manifest will say."""
    how, decode = Input.model_validate(source.facts["input"]), Decode.model_validate(source.facts["decode"])
    joints = len(source.facts["joints"]["keypoints"])
    height, width = how.size
    cells = (round(height / decode.cam_stride), round(width / decode.cam_stride))
    for crops in (1, 3):
        try:
            found = [
                output.shape for output in session(source.model)(np.zeros((crops, 3, *how.size), np.float32))
            ]
        except Exception as error:  # onnxruntime's errors share no public base class
            reason = str(error).splitlines()[0]
            message = f"{name} does not run on a batch of {crops} crops of {height}x{width}: {reason}"
            raise BundleError(message) from error
        expected = [(crops, joints, *cells), (crops, joints)]
        if found != expected:
            message = (
                f"{name}: for {crops} crops of {height}x{width}, {joints} joints and cam_stride "
                f"{decode.cam_stride:g} cams and presence must have shapes {expected}, it gives {found}"
            )
            raise BundleError(message)


def _require_parity(bundle: Bundle, network: Any) -> None:
    """Compare the ONNX file with the torch network on random crops."""
    import torch

    crops = torch.randn(3, 3, *bundle.manifest.input.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [t.numpy() for t in network(crops)[:2]]  # cams and presence
    backend = load_backend(bundle, "onnxruntime", Request(precision="fp32"))
    found = backend.infer(crops.numpy())
    backend.close()
    worst = float(
        np.max([np.abs(a - b).max() for a, b in zip(found, expected, strict=True)])
    )  # NaN stays NaN
    if not worst <= _LARGEST_LOGIT_ERROR:
        message = (
            f"the exported ONNX differs from the network by {worst:.3g} logits "
            f"(allowed {_LARGEST_LOGIT_ERROR}); nothing was written"
        )
        raise AccuracyGateError(message)


def _require_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} exists; choose another --out, or remove it"
        raise BundleError(message)
    if os.path.ismount(out):  # Path.is_mount does not support Windows before Python 3.12
        message = f"{out} is a mount point, which a finished bundle cannot replace: give a folder in it"
        raise BundleError(message)
