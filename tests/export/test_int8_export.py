"""lfpose-export --int8: from a source to a proven bundle, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from lfpose_edge.export import build, search
from nets import blob_network, write_blob_bundle

from lfpose_edge import PoseEstimator
from lfpose_edge.backends import available
from lfpose_edge.bundle import Bundle
from lfpose_edge.files import locked
from lfpose_edge.machine import int8_overflows


def test_a_bundle_is_quantised_with_frames_of_ones_own(run, frames: Path, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    code, out, err = run("blob", "--out", "blob8", "--int8", "--calib", frames, "--max-drop", "5")
    assert code == 0, err
    assert "report: blob8/report.md" in out

    bundle = Bundle.open(tmp_path / "blob8")
    assert bundle.manifest.models == {
        "fp32": "model.onnx",
        "int8-cpu": "model.int8-cpu.onnx",
        "int8-trt": "model.int8-trt.onnx",
    }
    assert bundle.manifest.provenance["int8"]["calibration"] == "frames"  # and not its place on this machine
    assert bundle.manifest.provenance["int8"]["crops"] == 32
    card = (bundle.path / "card.md").read_text(encoding="utf-8")
    assert card.startswith("> Exported anew from `blob` version 1.")
    assert card.endswith("\n\n# blob\n")
    assert set(bundle.manifest.files) == {*bundle.manifest.models.values(), "calibration.json", "card.md"}

    report = json.loads((tmp_path / "blob8/report.json").read_text(encoding="utf-8"))
    quantised = ["int8-cpu", "int8-trt"]
    if available()["openvino"] is None:
        quantised.append(f"int8-cpu, OpenVINO{' without VNNI' if int8_overflows() else ''}")
    assert [row["precision"] for row in report["precisions"]] == ["fp32", *quantised]
    assert report["held_out"] == {**report["held_out"], "crops": 16, "labelled": False}
    assert report["precisions"][0]["pck_points"] == 100  # unlabelled: the original is the truth
    assert list(report["parity_pixels"]) == [f"fp32 to {precision}" for precision in quantised]
    assert all(far["median"] < 1 for far in report["parity_pixels"].values())
    assert report["in_float"] == {
        "cpu": ["head", "presence_head", "stem", "dw"],  # nothing to win at the crops, on a CPU
        "trt": ["head", "presence_head"],
    }
    assert set(report["sensitivity_percent"]) == {"stem", "dw", "mix"}
    timed = {(row["engine"], row["threads"], row["precision"]) for row in report["latency"]}
    assert ("onnxruntime", 1, "int8") in timed
    text = (tmp_path / "blob8/report.md").read_text(encoding="utf-8")
    for picture in ("report-joints.png", "report-layers.png"):
        assert picture in text
        assert cv2.imread(str(tmp_path / "blob8" / picture)) is not None

    image = cv2.imread(str(frames / "0.png"))
    with (
        PoseEstimator(tmp_path / "blob8", precision="int8") as int8,
        PoseEstimator(tmp_path / "blob") as fp32,
    ):
        assert int8.describe()["backend"].endswith("int8")
        np.testing.assert_allclose(int8(image).keypoints, fp32(image).keypoints, atol=2.0)
    with PoseEstimator(tmp_path / "blob8") as auto:
        assert auto.describe()["backend"].endswith("fp32" if int8_overflows() else "int8")


def test_the_same_input_gives_the_same_bundle(run, frames: Path, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    for name in ("one", "two"):
        code, _, err = run(
            "blob", "--out", name, "--int8", "--calib", frames, "--ranges", "mse", "--max-drop", "5"
        )
        assert code == 0, err
    files = [p.name for p in (tmp_path / "one").iterdir() if not p.name.startswith("report")]
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_network_without_a_layer_for_int8_is_refused(run, frames: Path, tmp_path: Path) -> None:
    model = blob_network()
    for node in model.graph.node:
        if node.name == "mix":  # all others are its ends
            node.op_type = "Relu"
            del node.input[1:]
    write_blob_bundle(tmp_path / "blob")
    onnx.save(model, tmp_path / "ends.onnx")
    code, _, err = run("ends.onnx", "--out", "b", "--like", "blob", "--int8", "--calib", frames)
    assert (code, "no layer of the model would be INT8 in its int8-cpu file" in err) == (1, True)


def test_a_bundle_keeps_its_name_and_version_unless_told(run, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    code, out, _ = run("blob", "--out", "two", "--name", "mine", "--version", "2.1")
    assert (code, "mine version 2.1" in out) == (0, True)
    # What it was made from is what the card says, not what it became.
    assert (
        (tmp_path / "two/card.md")
        .read_text(encoding="utf-8")
        .startswith("> Exported anew from `blob` version 1.")
    )
    assert run("two", "--out", "again")[0] == 0
    manifest = Bundle.open(tmp_path / "again").manifest
    assert (manifest.name, manifest.version) == ("mine", "2.1")


@pytest.mark.parametrize("option", ["--name", "--version"])
def test_a_name_is_one_word(option: str, run, tmp_path: Path) -> None:
    write_blob_bundle(tmp_path / "blob")
    code, _, err = run("blob", "--out", "two", option, "my model")
    assert (code, f"{option} must be letters" in err, (tmp_path / "two").exists()) == (1, True, False)


def _list(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


MISTAKES = {
    "no calibration": (["blob", "--int8"], "--int8 needs --calib"),
    "calibration without int8": (["blob", "--calib", "frames"], "--calib does nothing without --int8"),
    "ranges without int8": (["blob", "--ranges", "mse"], "--ranges does nothing without --int8"),
    "a gate without int8": (["blob", "--max-drop", "0.5"], "--max-drop does nothing without --int8"),
    "a gate for what is not converted": (
        ["blob", "--proof", "mine/persons.json", "--max-drop", "0.5"],
        "--max-drop does nothing without --int8, or --proof of a checkpoint or an engine",
    ),
    "data that nothing is read from": (
        ["blob", "--data", "elsewhere", "--int8", "--calib", "frames"],
        "--data does nothing without the name of a set",
    ),
    "no such proof": (["blob", "--proof", "none.json"], "no annotation file none.json for --proof"),
    "a proof without its images": (["blob", "--proof", "alone.json"], "where they are with --proof-images"),
    "a detector for a file": (
        ["blob", "--int8", "--calib", "x.npz", "--detector", "d.onnx"],
        "--detector does nothing without a folder for --calib",
    ),
    "images for a folder": (
        ["blob", "--int8", "--calib", "frames", "--calib-images", "frames"],
        "--calib-images does nothing without a JSON for --calib",
    ),
    "more than the rule has": (
        ["blob", "--int8", "--calib", "coco_subset", "--calib-crops", "2000"],
        "coco_subset is 512 persons, and 2000 are asked for",
    ),
    "memory without engine": (
        ["blob", "--workspace-mb", "9"],
        "--workspace-mb does nothing without --engine",
    ),
    "no version": (["blob", "--version", ""], "--version must be letters"),
    "version is a path": (["blob", "--version", "../1"], "--version must be letters"),
    "weights astray": (["astray.onnx", "--like", "blob"], "holds weights that are not finite"),
    "another suffix": (["last.pth"], "ends in .pt"),
    "no onnx": (["none.onnx", "--like", "blob"], "no ONNX file at none.onnx"),
    "unknown set": (["blob", "--int8", "--calib", "coco_subse"], "did you mean 'coco_subset'"),
    "coco is not there": (["blob", "--int8", "--calib", "coco_subset"], "person_keypoints_train2017.json"),
    "unknown ranges": (["blob", "--int8", "--calib", "frames", "--ranges", "max"], "unknown way"),
    "unknown engine": (["blob", "--engine", "tensort"], "did you mean 'tensorrt'"),
    "no such source": (["lfpose-light"], "did you mean 'lfpose-lite'"),
    "no such checkpoint": (["none.pt"], "no checkpoint at none.pt"),
    "broken checkpoint": (["broken.pt"], "damaged or not a checkpoint"),
    "onnx without facts": (["mine.onnx"], "--like"),
    "broken onnx": (["broken.onnx", "--like", "blob"], "broken.onnx is no ONNX model"),
    "other onnx": (["other.onnx", "--like", "blob"], "takes 'crops'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, frames: Path, tmp_path: Path, case: str) -> None:
    write_blob_bundle(tmp_path / "blob")
    onnx.save(blob_network(), tmp_path / "mine.onnx")
    (tmp_path / "broken.pt").write_bytes(b"PK")
    (tmp_path / "alone.json").write_text("{}")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    other = blob_network()
    other.graph.node[0].input[0] = other.graph.input[0].name = "images"
    onnx.save(other, tmp_path / "other.onnx")
    astray = blob_network()
    weights = astray.graph.initializer[0]
    ruined = np.full_like(onnx.numpy_helper.to_array(weights), np.nan)
    weights.CopyFrom(onnx.numpy_helper.from_array(ruined, weights.name))
    onnx.save(astray, tmp_path / "astray.onnx")
    before = _list(tmp_path)
    arguments, words = MISTAKES[case]
    code, _, err = run(*arguments, "--out", "out")
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert words in errors[0]
    assert _list(tmp_path) == before


def _ruin_scales(monkeypatch: pytest.MonkeyPatch, spared_by: str) -> None:
    """Make every activation's grid useless unless a certain layer is in float."""
    real = search.quantise

    def ruined(model, calibration, style, *, in_float=()):
        quantised = real(model, calibration, style, in_float=in_float)
        if spared_by not in in_float:
            for tensor in quantised.graph.initializer:
                if tensor.name.endswith("/scale") and not tensor.dims:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1e-6, np.float32), tensor.name))
        return quantised

    monkeypatch.setattr(search, "quantise", ruined)


def test_a_gate_that_fails_names_the_layers_and_publishes_nothing(
    run, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob_bundle(tmp_path / "blob")
    _ruin_scales(monkeypatch, spared_by="none")
    before = _list(tmp_path)
    code, _, err = run("blob", "--out", "out", "--int8", "--calib", frames)
    assert code == 1
    assert "nothing was published. The layers that hurt most: " in err
    assert "--max-drop 0.5" in err
    assert _list(tmp_path) == before


def test_a_sensitive_layer_stays_in_float(
    run, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob_bundle(tmp_path / "blob")
    _ruin_scales(monkeypatch, spared_by="dw")
    code, _, err = run("blob", "--out", "out", "--int8", "--calib", frames, "--max-drop", "5")
    assert code == 0, err
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["in_float"]["trt"] == ["head", "presence_head", "dw"]


def test_what_a_killed_export_left_goes_and_a_running_one_stays(run, tmp_path: Path) -> None:
    """Also where the killed one had this process's number, as in a container that was started again."""
    write_blob_bundle(tmp_path / "blob")
    for name in ("killed", "running"):
        (tmp_path / f".out.{name}.part").mkdir()
    with locked(tmp_path / ".out.running.part.lock"):
        (tmp_path / ".out.killed.part.lock").touch()
        assert run("blob", "--out", "out")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".out.running.part",
        ".out.running.part.lock",
        "blob",
        "out",
    ]


def test_the_empty_folder_one_is_in_may_become_the_bundle(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob_bundle(tmp_path / "blob")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = run("../blob", "--out", ".")
    assert code == 0, err
    assert Bundle.open(tmp_path / "here").manifest.name == "blob"


def test_the_slower_of_two_exports_leaves_the_faster_ones_bundle(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob_bundle(tmp_path / "blob")
    real = build.write_manifest

    def overtaken(folder: Path, facts: dict[str, object]) -> None:
        real(folder, facts)
        write_blob_bundle(tmp_path / "out")

    monkeypatch.setattr(build, "write_manifest", overtaken)
    code, _, err = run("blob", "--out", "out", "--name", "slower")
    assert (code, "out exists; choose another --out" in err) == (1, True)
    assert Bundle.open(tmp_path / "out").manifest.name == "blob"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blob", "out"]


def test_a_mount_point_is_refused_before_the_work(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob_bundle(tmp_path / "blob")
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "out")
    code, _, err = run("blob", "--out", "out")
    assert (code, "is a mount point" in err) == (1, True)


def test_a_presence_that_int8_shifts_is_a_loss(
    run, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joints are where they were, and no longer said to be there."""
    write_blob_bundle(tmp_path / "blob")
    real = search.quantise

    def shifted(model, calibration, style, *, in_float=()):
        quantised = real(model, calibration, style, in_float=in_float)
        last = next(node for node in quantised.graph.node if "presence" in node.output)
        last.output[0] = "presence_before"
        nine = onnx.numpy_helper.from_array(np.array(9, np.float32), "nine")
        quantised.graph.initializer.append(nine)
        quantised.graph.node.append(onnx.helper.make_node("Sub", ["presence_before", "nine"], ["presence"]))
        return quantised

    monkeypatch.setattr(search, "quantise", shifted)
    code, _, err = run("blob", "--out", "out", "--int8", "--calib", frames, "--max-drop", "5")
    assert code == 1
    assert "points of presence" in err
    assert not (tmp_path / "out").exists()
