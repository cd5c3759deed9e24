"""lfpose-export --proof: a float model, too, is judged on real persons before it appears."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from lfpose_edge.export import export_bundle, report
from lfpose_edge.export.calibration import load_proof
from lfpose_edge.export.proof import Floats, Judge, session
from nets import spot_image, write_blob_bundle
from test_export import write_checkpoint

from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import AccuracyGateError
from lfpose_edge.skeleton import LSP14


def _persons(folder: Path, joints: Sequence[str], count: int = 64) -> tuple[Path, Path]:
    """Pictures of one spot each, where all of the joints are: a COCO-keypoints JSON and its folder."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(1)
    annotations = []
    for i in range(count):
        image = spot_image(rng)
        cv2.imwrite(str(images / f"{i}.png"), image)
        y, x = np.unravel_index(cv2.GaussianBlur(image[..., 2], (0, 0), 2).argmax(), image.shape[:2])
        keypoints = [int(x), int(y), 2] * len(joints)
        annotations.append({"id": i, "image_id": i, "bbox": [0, 0, 48, 64], "keypoints": keypoints})
    tree = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)],
        "annotations": annotations,
        "categories": [{"id": 1, "keypoints": list(joints)}],
    }
    (folder / "persons.json").write_text(json.dumps(tree))
    return folder / "persons.json", images


def test_a_float_export_is_judged_on_persons(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    source = Bundle.open(write_blob_bundle(tmp_path / "blob"))
    _persons(tmp_path / "data/mine", source.skeleton.keypoints)
    code, out, err = run("blob", "--out", "b", "--proof", "mine/persons.json")
    assert (code, "report: b/report.md" in out) == (0, True), err
    found = json.loads((tmp_path / "b/report.json").read_text(encoding="utf-8"))
    assert found["held_out"] == {**found["held_out"], "crops": 64, "labelled": True, "asked": 1}
    [row] = found["precisions"]
    assert (row["precision"], row["drop_points"]) == ("fp32", 0)
    assert row["pck_points"] > 30  # its maps are broad; one place for all would have about 5
    assert {timed["precision"] for timed in found["latency"]} == {"fp32"}
    text = (tmp_path / "b/report.md").read_text(encoding="utf-8")
    assert "what the export costs" in text
    assert "INT8" not in text
    assert cv2.imread(str(tmp_path / "b/report-joints.png")) is not None
    assert not (tmp_path / "b/report-layers.png").exists()
    assert "report.json" not in Bundle.open(tmp_path / "b").manifest.files


def test_a_checkpoint_is_compared_with_its_network_in_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_latency", lambda *_: [])  # which takes seconds
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    export_bundle(checkpoint, tmp_path / "b", proof=_persons(tmp_path / "mine", LSP14.keypoints, 16))
    found = json.loads((tmp_path / "b/report.json").read_text(encoding="utf-8"))
    assert list(found["parity_pixels"]) == ["torch to fp32"]
    assert found["parity_pixels"]["torch to fp32"]["median"] < 0.1
    assert "| torch to fp32 |" in (tmp_path / "b/report.md").read_text(encoding="utf-8")


def test_int8_that_wins_no_time_is_said_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = {"p50_ms": 5.0, "p95_ms": 6.0}
    rows = [
        {"engine": engine, "threads": threads, "precision": precision, "speedup": speedup, **times}
        for engine, threads, precision, speedup in (
            ("onnxruntime", 1, "fp32", 1.0),
            ("onnxruntime", 1, "int8", 0.94),
            ("openvino", 1, "int8", 1.1),
            ("openvino", 2, "int8", 0.9),  # of one thread it is known already
        )
    ]
    monkeypatch.setattr(report, "_latency", lambda *_: rows)
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    export_bundle(checkpoint, tmp_path / "b", proof=_persons(tmp_path / "mine", LSP14.keypoints, 16))
    said = [r.getMessage() for r in caplog.records if "no faster" in r.getMessage()]
    assert [line.split(" here")[0] for line in said] == ["INT8 is no faster than fp32 on onnxruntime"]
    assert "0.94 times as fast" in said[0]


def test_persons_are_found_beside_the_user_too(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_latency", lambda *_: [])
    source = Bundle.open(write_blob_bundle(tmp_path / "blob"))
    _persons(tmp_path / "here", source.skeleton.keypoints, 16)
    code, _, err = run("blob", "--out", "b", "--proof", "here/persons.json", "--proof-images", "here/images")
    assert code == 0, err


@pytest.mark.parametrize(("moved", "published"), [(1, True), (3, False)], ids=["one joint", "three joints"])
def test_one_joint_that_crosses_a_threshold_is_chance(
    moved: int, published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_latency", lambda *_: [])
    bundle = Bundle.open(write_blob_bundle(tmp_path / "blob"))
    model = onnx.load(bundle.model_file("fp32"))
    proof = _persons(tmp_path / "mine", bundle.skeleton.keypoints, 10)
    judge = Judge(
        load_proof(proof, bundle.manifest.input, bundle.skeleton), bundle.skeleton, bundle.manifest.decode
    )
    right = judge.predict(session(model))
    crops_seen: list[int] = []

    def in_torch(crops: Floats) -> tuple[Floats, Floats]:
        """The same, except that presence is reversed for the first ``moved`` joints of the first crop."""
        cams, presence = session(model)(crops)
        if not crops_seen:
            presence[0, :moved] = -100 * np.sign(right.presence[0, :moved] - 0.5)
        crops_seen.append(len(crops))
        return cams, presence

    monkeypatch.setattr(report, "_in_torch", lambda _: in_torch)
    found = report.Report(judge._crops, judge, model, 0.5, torch.nn.Identity())
    if published:
        report.write_report(bundle.path, found, bundle)
        return
    with pytest.raises(AccuracyGateError, match=r"One joint of those judged is 3\.33 points: give more"):
        report.write_report(bundle.path, found, bundle)


def test_a_file_that_answers_otherwise_than_its_network_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(write_blob_bundle(tmp_path / "blob"))
    model = onnx.load(bundle.model_file("fp32"))
    held_out = load_proof(
        _persons(tmp_path / "mine", bundle.skeleton.keypoints), bundle.manifest.input, bundle.skeleton
    )
    judge = Judge(held_out, bundle.skeleton, bundle.manifest.decode)

    def sees_nobody(crops: Floats) -> tuple[Floats, Floats]:
        cams, presence = session(model)(crops)
        return cams, presence - 100

    monkeypatch.setattr(report, "_in_torch", lambda _: sees_nobody)
    found = report.Report(held_out, judge, model, 0.5, torch.nn.Identity())
    with pytest.raises(AccuracyGateError, match=r"model\.onnx differs from .* \(allowed 0\.5"):
        report.write_report(bundle.path, found, bundle)
    assert not list(bundle.path.glob("report*"))


@pytest.mark.parametrize(
    ("count", "joints", "words"),
    [
        (7, None, "has 7 persons to prove the export on"),
        (16, ("tail",), "none of its joints (tail)"),
    ],
    ids=["few persons", "no joint of the model's"],
)
def test_what_proves_nothing_is_refused(
    count: int,
    joints: Sequence[str] | None,
    words: str,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    source = Bundle.open(write_blob_bundle(tmp_path / "blob"))
    _persons(tmp_path / "data/mine", joints or source.skeleton.keypoints, count)
    code, _, err = run("blob", "--out", "b", "--proof", "mine/persons.json")
    assert (code, words in err, (tmp_path / "b").exists()) == (1, True, False), err
