"""``lfpose eval`` of a checkpoint and of a bundle: the numbers, the lines beside them, and the pictures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from lfpose_edge.cli import evaluate
from lfpose_edge.cli import main as cli
from lfpose_edge.coco import read_coco_keypoints, uncounted_persons
from lfpose_edge.metrics.accuracy import as_coco
from lfpose_edge.metrics.oks_ap import CrowdAp
from lfpose_edge.metrics.pckh import pckh, read_mpii_truth
from lfpose_edge.skeleton import CROWDPOSE14, LSP14, MPII16
from lfpose_edge.train.checkpoint import save_checkpoint
from lfpose_edge.train.evaluate import predict_persons
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.start import trained_network


@pytest.fixture
def lfpose(command):
    """Runs ``lfpose`` in an empty folder."""
    return partial(command, cli.main, "lfpose")


@pytest.fixture
def checkpoint(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    torch.manual_seed(0)
    recipe = make_recipe()
    state = build_network(recipe.network, LSP14).state_dict()
    save_checkpoint(tmp_path / "last.pt", {"recipe": recipe.model_dump(mode="json"), "ema": state, "step": 1})
    return tmp_path / "last.pt"


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_an_evaluation_tells_numbers_lines_and_pictures(
    kind: str, lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    model = str(checkpoint) if kind == "checkpoint" else "lfpose-lite"
    out = tmp_path / "result.json"
    sets = ("val/annotations.json", "val/images", "--data", str(figures))
    done = lfpose("eval", *sets, "--model", model, "--json", str(out), "--report", str(tmp_path / "page"))
    assert done.code == 0, done.err
    for words in ("either side", "mean pose of these persons", "centre of the box", "presence AUC"):
        assert words in done.out
    tree = json.loads(out.read_text(encoding="utf-8"))
    assert set(tree["lines"]) == {"mean pose of these persons", "centre of the box"}
    # The figures stand alike: their mean pose is a good guess, the middle of the box is not.
    assert tree["lines"]["mean pose of these persons"]["pck_box"]["mean"] > 0.9
    assert tree["lines"]["centre of the box"]["pck_box"]["mean"] < 0.3
    assert tree["pck_box"]["mean"] <= tree["pck_either_side"]["mean"]
    assert len(tree["presence_auc"]) == 14
    assert (tmp_path / "page/index.html").is_file()
    assert (tmp_path / "page/cams.jpg").stat().st_size > 1000
    assert np.isfinite(tree["oks"]["ap"])


def test_without_pycocotools_the_rest_is_measured(
    lfpose, figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    done = lfpose("eval", "val/annotations.json", "val/images", "--data", figures)
    assert (done.code, "OKS AP: not measured, it needs pycocotools" in done.out) == (0, True), done.err


def test_a_package_that_cannot_be_imported_is_one_line_on_stderr(
    lfpose, figures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)  # it is installed, and a part of it broken
    done = lfpose("eval", "val/annotations.json", "val/images", "--data", figures)
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: OKS AP needs pycocotools: pip install pycocotools\n"


def test_a_joint_may_be_called_otherwise_by_the_file(
    lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    tree = (figures / "val/annotations.json").read_text(encoding="utf-8")
    (tmp_path / "other.json").write_text(tree.replace('"neck"', '"thorax"'))
    results = {}
    for joints in ([], ["--joint", "neck=thorax"], ["--joint", "head_top="]):
        out = tmp_path / "result.json"
        sets = (str(tmp_path / "other.json"), "val/images", "--data", str(figures))
        done = lfpose("eval", *sets, "--model", str(checkpoint), "--json", str(out), *joints)
        assert done.code == 0, done.err
        measured = json.loads(out.read_text(encoding="utf-8"))["pck_box_all"]["per_joint"]
        results[" ".join(joints)] = {name: measured[name] is not None for name in ("neck", "head_top")}
    assert results == {
        "": {"neck": False, "head_top": True},
        "--joint neck=thorax": {"neck": True, "head_top": True},
        "--joint head_top=": {"neck": False, "head_top": False},
    }


def test_two_evaluations_of_the_same_persons_are_compared(
    lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    val = ("val/annotations.json", "val/images", "--data", str(figures))
    earlier, model = tmp_path / "earlier.json", ("--model", str(checkpoint))
    assert lfpose("eval", *val, "--json", str(earlier)).code == 0
    tree = json.loads(earlier.read_text(encoding="utf-8"))
    correct, counted = np.sum(tree["per_person"], axis=0)
    assert (tree["persons"], correct / counted) == (len(tree["per_person"]), tree["pck_box"]["mean"])
    same = lfpose("eval", *val, "--against", str(earlier))
    assert "+0.0 points, +0.0 to +0.0 in 95 of 100 draws" in same.out
    worse = lfpose("eval", *val, *model, "--against", str(earlier))
    assert f"against {earlier}: -" in worse.out
    others = lfpose(
        "eval", "train/annotations.json", "train/images", *val[2:], *model, "--against", str(earlier)
    )
    assert (others.code, "was measured on other persons" in others.err) == (1, True)
    assert others.out == ""  # before anything was measured
    tree = json.loads(earlier.read_text(encoding="utf-8"))
    assert tree["who"][:2] == [["000.png", 0], ["001.png", 1]]
    tree["who"].reverse()
    earlier.write_text(json.dumps(tree))
    others = lfpose("eval", *val, "--against", str(earlier))
    assert (others.code, "was measured on other persons" in others.err) == (1, True)
    del tree["who"]  # as earlier versions wrote it
    tree["per_person"].pop()
    earlier.write_text(json.dumps(tree))
    others = lfpose("eval", *val, "--against", str(earlier))
    assert (others.code, "was not measured on these persons" in others.err) == (1, True)


def test_a_bundle_is_measured_on_the_engine_that_is_named(lfpose, figures: Path, tmp_path: Path) -> None:
    sets = ("val/annotations.json", "val/images", "--data", str(figures), "--json", str(tmp_path / "a.json"))
    done = lfpose("eval", *sets, "--backend", "onnxruntime", "--precision", "fp32")
    assert done.code == 0, done.err
    runs_on = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["runs_on"]
    assert (runs_on.split()[0], runs_on.split()[-1]) == ("onnxruntime", "fp32")


def test_the_tables_say_what_their_columns_say(
    lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    sets = ("val/annotations.json", "val/images", "--data", str(figures), "--json", str(tmp_path / "a.json"))
    done = lfpose("eval", *sets, "--model", str(checkpoint))
    tree = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))

    def cells(first: str) -> list[str]:
        (line,) = (row for row in done.out.splitlines() if re.match(rf"\W+{re.escape(first)}\W", row))
        return re.findall(r"\d\.\d{3}", line)

    mean = {name: f"{tree[name]['mean']:.3f}" for name in ("pck_box_all", "pck_torso", "pck_box")}
    assert cells("all") == [mean["pck_box_all"], mean["pck_torso"]]
    line = tree["lines"]["mean pose of these persons"]
    assert cells("mean pose of these persons") == [
        f"{line[name]['mean']:.3f}" for name in ("pck_box", "pck_either_side")
    ]
    knee = [tree[name]["per_joint"]["left_knee"] for name in ("pck_box_all", "pck_torso")]
    assert cells("left_knee")[:2] == [f"{value:.3f}" for value in knee]


@pytest.mark.parametrize(
    ("joints", "category"), [(list(CROWDPOSE14.keypoints), 1), (list(LSP14.keypoints), 7)]
)
def test_crowdposes_levels_are_shown_of_its_people(
    joints: tuple[str, ...], category: int, tmp_path: Path
) -> None:
    """Also for a file that has its joints in another order and under another category."""
    rng = np.random.default_rng(0)
    people = [
        {
            "id": i + 1,
            "image_id": i,
            "category_id": category,
            "bbox": [0, 0, 100, 100],
            "keypoints": np.c_[rng.integers(10, 90, (14, 2)), np.full(14, 2)].ravel().tolist(),
        }
        for i in range(3)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "crowdIndex": i / 3} for i in range(3)]
    people.append({"id": 9, "image_id": 0, "category_id": category, "bbox": [0, 0, 100, 100]})
    tree = {
        "images": images,
        "annotations": people,
        "categories": [{"id": category, "keypoints": list(joints)}],
    }
    for image in images:
        (tmp_path / str(image["file_name"])).touch()
    (tmp_path / "a.json").write_text(json.dumps(tree))
    persons = read_coco_keypoints(tmp_path / "a.json", tmp_path, CROWDPOSE14)
    coco = as_coco(persons.joints, np.ones((3, 14)), persons, uncounted_persons(tmp_path / "a.json"))
    crowd = evaluate._crowd_ap(tmp_path / "a.json", persons, *coco)
    assert crowd is not None
    assert (crowd.ap, crowd.easy, crowd.medium, crowd.hard) == pytest.approx((1.0, 1.0, 1.0, -1.0))
    for nothing in (None, "0.3", float("nan")):
        images[1]["crowdIndex"] = nothing
        (tmp_path / "a.json").write_text(json.dumps(tree))
        assert evaluate._crowd_ap(tmp_path / "a.json", persons, *coco) is None


def test_crowdposes_figures_are_in_the_result(
    lfpose, make_recipe: Callable[..., Recipe], figures: Path, tmp_path: Path
) -> None:
    tree = json.loads((figures / "val" / "annotations.json").read_text(encoding="utf-8"))
    for number, image in enumerate(tree["images"]):
        image["crowdIndex"] = 0.9 * (number % 2)
    (tmp_path / "crowded.json").write_text(json.dumps(tree))
    recipe = make_recipe(skeleton="crowdpose14")
    state = build_network(recipe.network, CROWDPOSE14).state_dict()
    save_checkpoint(tmp_path / "c.pt", {"recipe": recipe.model_dump(mode="json"), "ema": state, "step": 1})
    images = str(figures / "val" / "images")
    done = lfpose("eval", "crowded.json", images, "--model", "c.pt", "--json", "result.json")
    assert done.code == 0, done.err
    crowd = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["crowdpose"]
    assert f"CrowdPose AP {crowd['ap']:.3f}  easy {crowd['easy']:.3f}  medium -1.000" in done.out
    assert set(crowd) == {f.name for f in fields(CrowdAp)}


def test_a_checkpoint_has_no_backend_to_choose(lfpose, checkpoint: Path, figures: Path) -> None:
    sets = ("val/annotations.json", "val/images", "--data", str(figures))
    done = lfpose("eval", *sets, "--model", str(checkpoint), "--precision", "int8")
    assert (done.code, "runs on torch alone" in done.err) == (1, True)


def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    sets = ("val/annotations.json", "val/images", "--data", str(figures))
    done = lfpose("eval", *sets, "--model", str(checkpoint), "--report", str(tmp_path / "file"))
    assert (done.code, "its folder cannot be made" in done.err) == (1, True)
    assert "12 limb joints" not in done.out


@pytest.fixture
def mpii(figures: Path, make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A folder of five people as MPII's own files have them, and a checkpoint for its joints."""
    images = [path.name for path in sorted((figures / "val" / "images").iterdir())[:5]]
    rng = np.random.default_rng(0)
    joints = rng.integers(20, 90, (5, 16, 2)).astype(float)
    seen = rng.random((5, 16)) > 0.2
    entries = [
        {
            "image": name,
            "center": [60.0, 60.0],
            "scale": 0.5,
            "joints": places.tolist(),
            "joints_vis": labelled.astype(int).tolist(),
        }
        for name, places, labelled in zip(images, joints, seen, strict=True)
    ]
    (tmp_path / "valid.json").write_text(json.dumps(entries))
    heads = np.tile([[10.0, 10.0], [40.0, 50.0]], (5, 1, 1))
    columns = {"pos_gt_src": joints.transpose(1, 2, 0), "headboxes_src": heads.transpose(1, 2, 0)}
    savemat(tmp_path / "gt_valid.mat", {**columns, "jnt_missing": (~seen).T.astype(np.uint8)})
    (tmp_path / "images").symlink_to(figures / "val" / "images")
    torch.manual_seed(0)
    recipe = make_recipe(skeleton="mpii16")
    state = build_network(recipe.network, MPII16).state_dict()
    save_checkpoint(tmp_path / "mpii.pt", {"recipe": recipe.model_dump(mode="json"), "ema": state, "step": 1})
    return tmp_path


def test_pckh_is_of_mpiis_own_file(lfpose, mpii: Path) -> None:
    sets = ("valid.json", "images", "--data", str(mpii), "--mpii-truth", "gt_valid.mat")
    out = mpii / "result.json"
    done = lfpose("eval", *sets, "--model", str(mpii / "mpii.pt"), "--json", str(out))
    assert done.code == 0, done.err
    tree = json.loads(out.read_text(encoding="utf-8"))
    network, recipe = trained_network(mpii / "mpii.pt")
    persons = read_coco_keypoints(mpii / "valid.json", mpii / "images", MPII16)
    keypoints, _, _ = predict_persons(network, persons, recipe.input_size, recipe.data.padding)
    for part in (0.5, 0.1):
        expected = pckh(keypoints, read_mpii_truth(mpii / "gt_valid.mat"), part).mean
        assert tree[f"pckh@{part}"]["mean"] == expected
        assert f"pckh@{part} {expected:.3f}" in done.out
    assert tree["pckh@0.5"]["mean"] > tree["pckh@0.1"]["mean"]


def test_pckh_of_other_persons_or_joints_is_refused(lfpose, mpii: Path, checkpoint: Path) -> None:
    sets = ("valid.json", "images", "--data", str(mpii), "--mpii-truth", "gt_valid.mat")
    done = lfpose("eval", *sets, "--model", str(checkpoint))
    assert (done.code, "PCKh is of MPII's 16 joints, and the model has those of lsp14" in done.err) == (
        1,
        True,
    )
    entries = json.loads((mpii / "valid.json").read_text(encoding="utf-8"))
    for other, words in (
        ([*entries, entries[0]], "ground truth is of 5 persons, and annotations go to 6"),
        ([*entries[:3], entries[4], entries[3]], "in another order: person 4 has a joint"),
    ):
        (mpii / "valid.json").write_text(json.dumps(other))
        done = lfpose("eval", *sets, "--model", str(mpii / "mpii.pt"))
        assert (done.code, words in done.err) == (1, True), done.err


def test_pckh_leaves_out_whom_nobody_has_located_and_joints_that_are_not_numbers(lfpose, mpii: Path) -> None:
    """MPII's list has such people, and its file NaN where a joint is missing."""
    entries = json.loads((mpii / "valid.json").read_text(encoding="utf-8"))
    entries[1]["joints_vis"] = [0] * 16
    (mpii / "valid.json").write_text(json.dumps(entries))
    tree = loadmat(mpii / "gt_valid.mat")
    tree["jnt_missing"][:, 1] = 1
    missing = np.argwhere(tree["jnt_missing"])
    tree["pos_gt_src"][missing[:, 0], :, missing[:, 1]] = np.nan
    columns = ("pos_gt_src", "jnt_missing", "headboxes_src")
    savemat(mpii / "gt_valid.mat", {name: tree[name] for name in columns})
    sets = ("valid.json", "images", "--data", str(mpii), "--mpii-truth", "gt_valid.mat")
    done = lfpose("eval", *sets, "--model", str(mpii / "mpii.pt"), "--json", str(mpii / "result.json"))
    assert done.code == 0, done.err
    assert len(json.loads((mpii / "result.json").read_text(encoding="utf-8"))["who"]) == 4
    entries[3], entries[4] = entries[4], entries[3]
    (mpii / "valid.json").write_text(json.dumps(entries))
    done = lfpose("eval", *sets, "--model", str(mpii / "mpii.pt"))
    assert (done.code, "in another order: person 4" in done.err) == (1, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_the_device_is_the_one_that_was_asked_for(
    kind: str, lfpose, checkpoint: Path, figures: Path, tmp_path: Path
) -> None:
    sets = ("val/annotations.json", "val/images", "--data", str(figures))
    model = {"checkpoint": (str(checkpoint),), "bundle": ("lfpose-lite", "--backend", "onnxruntime")}[kind]
    done = lfpose("eval", *sets, "--model", *model, "--device", "cuda")
    assert (done.code, "cuda" in done.err.lower()) == (1, True)
    out = tmp_path / "result.json"
    done = lfpose("eval", *sets, "--model", *model, "--device", "cpu", "--json", str(out))
    assert done.code == 0, done.err
    assert "cpu" in json.loads(out.read_text(encoding="utf-8"))["runs_on"]
