"""``lfpose adapt``: people of a folder, the verdict without labels, and what is published or not."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pictures import turned_jpeg
from rich.console import Console

from lfpose_edge.bundle import Bundle
from lfpose_edge.cli import adapting, people
from lfpose_edge.cli.adapting import read_boxes, run_adapt, write_halves
from lfpose_edge.cli.people import find_people
from lfpose_edge.coco import read_coco_boxes
from lfpose_edge.errors import (
    AccuracyGateError,
    BackendUnavailable,
    BundleError,
    RecipeError,
    SourceError,
    TrainingDiverged,
)
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train import adapt, bridge
from lfpose_edge.train.adapt import SelfAgreement, Verdict
from lfpose_edge.train.checkpoint import load_checkpoint, save_checkpoint
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Recipe, load_recipe

MakeRecipe = Callable[..., Recipe]
QUIET = Console(quiet=True)
SMALL = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]}


@pytest.fixture
def frames(figures: Path, tmp_path: Path) -> Path:
    """A camera's folder: the training figures again, one person an image."""
    return Path(shutil.copytree(figures / "train" / "images", tmp_path / "frames"))


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "LEAST_PEOPLE", 12)
    monkeypatch.setattr(adapting, "LEAST_HELD_OUT", 3)


def test_without_a_detector_an_image_is_of_one_person(frames: Path) -> None:
    found = find_people(frames, None, QUIET)
    count = len(list(frames.iterdir()))
    assert len(found["images"]) == len(found["annotations"]) == count
    assert found["annotations"][3]["bbox"] == [0, 0, 120, 140]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_name": "gone.png"}, "names an image that is not there: .*gone.png"),
        ({"file_name": "/somewhere/0.png"}, "'/somewhere/0.png' must be relative to the folder"),
        ({"file_name": "../0.png"}, "'../0.png' must be relative to the folder"),
        ({"id": "p1"}, "annotation p1: it needs an id, a whole number"),
        ({"id": None}, "annotation None: it needs an id, a whole number"),
    ],
    ids=["missing", "absolute", "outside", "word", "none"],
)
def test_boxes_that_cannot_be_used_are_named(
    change: dict[str, object], words: str, frames: Path, tmp_path: Path
) -> None:
    """Before anything is trained."""
    found = find_people(frames, None, QUIET)
    where = found["images"] if "file_name" in change else found["annotations"]
    where[-1] |= change
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    with pytest.raises(SourceError, match=words):
        read_boxes(tmp_path / "boxes.json", frames, QUIET)


@pytest.mark.parametrize(
    "bbox",
    [[120, 5, 20, 20], [5, -30, 20, 30.5], [5, 5, 0.4, 30]],
    ids=["beside", "almost above", "thinner than a pixel"],
)
def test_boxes_that_show_nothing_of_their_images_are_named(
    bbox: list[float], frames: Path, tmp_path: Path
) -> None:
    """Though the file does not say how large these are."""
    found = find_people(frames, None, QUIET)
    found["images"] = [{"id": image["id"], "file_name": image["file_name"]} for image in found["images"]]
    found["annotations"][-1]["bbox"] = bbox
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    with pytest.raises(
        SourceError, match="annotation 24 shows less than a pixel of 023.png, which is 120 wide and 140 tall"
    ):
        read_boxes(tmp_path / "boxes.json", frames, QUIET)


def test_the_images_of_given_boxes_are_opened_before_the_training(
    checkpoint: Path,
    figures: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adapting, "LEAST_PEOPLE", 99)  # it does not come to a training
    found = find_people(frames, None, QUIET)
    found["images"][1]["file_name"] = "turned.jpg"
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    (frames / "turned.jpg").write_bytes(turned_jpeg(cv2.imread(str(frames / "001.png"))))
    (frames / "023.png").write_bytes(b"no image")
    faults = ("turned.jpg is turned by its EXIF entry", "023.png is damaged, or not an image")
    arguments = (str(checkpoint), frames, tmp_path / "out", None, tmp_path / "boxes.json", figures, 1, "cpu")
    with pytest.raises(SourceError, match=faults[0]):
        run_adapt(*arguments)
    with pytest.raises(SourceError, match="18 people to adapt to and 4 to judge by are too few: 99 and 3"):
        run_adapt(*arguments, keep_going=True)
    said = capsys.readouterr().err
    assert all(f"left out: {frames / fault}" in said for fault in faults)
    for file in frames.iterdir():
        file.write_bytes(b"")
    with pytest.raises(SourceError, match="none of the 24 images can be used, such as .*000.png"):
        run_adapt(*arguments, keep_going=True)
    assert capsys.readouterr().err.count("left out: ") == 24


def test_boxes_need_no_id(frames: Path, tmp_path: Path) -> None:
    found = find_people(frames, None, QUIET)
    for person in found["annotations"]:
        del person["id"]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    assert len(read_boxes(tmp_path / "boxes.json", frames, QUIET)["annotations"]) == 24


def test_who_is_held_out_is_not_adapted_to(frames: Path, tmp_path: Path) -> None:
    found = find_people(frames, None, QUIET)
    found["annotations"] += [{**a, "id": 1000 + a["id"]} for a in found["annotations"]]  # two an image
    write_halves(found, tmp_path)
    rest, kept = (read_coco_boxes(tmp_path / f"{n}.json", frames, LSP14) for n in ("target", "held-out"))
    held_out = 2 * (len(found["images"]) // 5)
    assert (len(rest), len(kept)) == (len(found["annotations"]) - held_out, held_out)
    assert max(rest.images) < min(kept.images)  # none twice, none between those that it is adapted to


def test_frames_are_counted_and_not_spelled(tmp_path: Path) -> None:
    """Without leading zeros the ninth frame is not the last."""
    images = [{"id": i, "file_name": f"cam{i}.jpg"} for i in range(100)]
    people = [{"id": i, "image_id": i, "bbox": [0, 0, 9, 9]} for i in range(100)]
    write_halves({"images": images[::-1], "annotations": people}, tmp_path)
    kept = json.loads((tmp_path / "held-out.json").read_text(encoding="utf-8"))
    assert sorted(a["image_id"] for a in kept["annotations"]) == list(range(80, 100))
    assert adapting._counted("10²5") == [(0, ""), (10, "10"), (0, "²"), (5, "5"), (0, "")]


def test_people_of_other_frames_are_not_taken_over(frames: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(find_people(frames, None, QUIET)))

    def first_run(*asked: Any) -> None:
        write_halves({**find_people(frames, None, QUIET), "info": adapting.asked_for(*asked)}, tmp_path)

    def rerun(other: str | None, *asked: Any) -> None:
        words = f"holds the people of other {other}, .*: give another --out"
        with pytest.raises(SourceError, match=words) if other else nullcontext():
            adapting.require_same_people(tmp_path, adapting.asked_for(*asked))

    first_run(frames, "mine.onnx", None)
    rerun(None, frames, "mine.onnx", None)
    rerun("detector", frames, "yours.onnx", None)
    rerun("frames and boxes and detector", frames, "mine.onnx", boxes)
    rerun("frames", Path(shutil.copytree(frames, tmp_path / "moved")), "mine.onnx", None)
    (frames / "more.png").write_bytes((frames / "000.png").read_bytes() + b"and more")
    rerun("frames", frames, "mine.onnx", None)
    (frames / "more.png").replace(frames / "000.png")
    rerun("frames", frames, "mine.onnx", None)

    first_run(frames, "mine.onnx", boxes)
    shutil.copy(frames / "000.png", frames / "still more.png")  # which the boxes do not name
    rerun(None, frames, "yours.onnx", boxes)
    rerun("frames", tmp_path / "moved", None, boxes)
    boxes.write_text(boxes.read_text(encoding="utf-8") + "\n")
    rerun("boxes", frames, None, boxes)


def test_boxes_may_be_given(figures: Path, frames: Path) -> None:
    found = read_boxes(figures / "train" / "annotations.json", frames, QUIET)
    truth = json.loads((figures / "train" / "annotations.json").read_text(encoding="utf-8"))["annotations"]
    assert all("keypoints" not in a for a in found["annotations"])
    np.testing.assert_allclose([a["bbox"] for a in found["annotations"]], [a["bbox"] for a in truth])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nothing", "is no folder"),
        ("empty", "holds no image"),
        ("damaged", "is damaged, or not an image"),
        ("few", "8 people to adapt to and 2 to judge by are too few: .* 1/5 of the images"),
        ("nobody", "the detector found nobody in the 24 images"),
        ("sideways", "000.jpg is turned by its EXIF entry"),
    ],
)
def test_a_folder_that_cannot_be_adapted_to(
    case: str, words: str, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "nothing":
        frames = tmp_path / "nothing"
    elif case == "empty":
        frames = tmp_path / "empty"
        frames.mkdir()
    elif case == "damaged":
        next(frames.iterdir()).write_bytes(b"no image")
    elif case == "few":
        for file in sorted(frames.iterdir())[10:]:
            file.unlink()
    elif case == "sideways":
        (frames / "000.jpg").write_bytes(turned_jpeg(cv2.imread(str(frames / "000.png"))))
    else:
        monkeypatch.setattr(
            people, "resolve_detector", lambda _: lambda image: (np.zeros((0, 4)), np.zeros(0))
        )
    with pytest.raises(SourceError, match=words):
        write_halves(find_people(frames, None, QUIET), tmp_path)


@pytest.fixture
def checkpoint(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    recipe = make_recipe(network=SMALL, stages=[{"epochs": 1, "size": [64, 64]}])
    torch.manual_seed(0)
    network = build_network(recipe.network, recipe.joints)
    state = {"recipe": recipe.model_dump(mode="json"), "ema": network.state_dict(), "step": 5}
    save_checkpoint(tmp_path / "source.pt", state)
    return tmp_path / "source.pt"


@pytest.mark.parametrize("good", [True, False], ids=["published", "refused"])
def test_an_adapted_model_is_published_only_if_it_is_no_worse(
    good: bool,
    checkpoint: Path,
    figures: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("LEAST_AGREEMENT", "LEAST_SOURCE"):
        monkeypatch.setattr(adapt, limit, -1.0 if good else 1.0)
    monkeypatch.setattr(adapt, "LEAST_SPREAD", 0.0)
    before, out = checkpoint.read_bytes(), tmp_path / "out"
    arguments = (str(checkpoint), frames, out, None, None, figures, 1, "cpu")
    if good:
        run_adapt(*arguments)
        bundle = Bundle.open(out / "bundle")
        assert bundle.manifest.name == "figures-adapted"
        manifest = (out / "bundle" / "manifest.json").read_text(encoding="utf-8")
        assert str(tmp_path) not in manifest
        assert "../" not in manifest
        with pytest.raises(BundleError, match="is there already"):
            run_adapt(*arguments)
    else:
        with pytest.raises(AccuracyGateError, match=r"not published, for it agrees with itself .*\.pt is as"):
            run_adapt(*arguments)
        assert not (out / "bundle").exists()
    assert checkpoint.read_bytes() == before
    adapted = load_checkpoint(out / "run" / "last.pt")
    assert {"appearance": 0.5, "statistics": "target"}.items() <= adapted["recipe"]["adapt"].items()
    assert adapted["bridge"]["watched"][0] > 0  # batches of the source


def test_the_verdict_is_of_the_source_and_of_what_became_of_it(
    checkpoint: Path, figures: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Any] = []

    def refuse(*arguments: Any) -> Verdict:
        judged.extend(arguments)
        good = SelfAgreement(0.6, 0.3, 0.25, 0.5)
        return Verdict(good, replace(good, agreement=0.0), 0.8, 0.8, 0.8)

    monkeypatch.setattr(adapt, "judge", refuse)
    out = tmp_path / "out"
    with pytest.raises(AccuracyGateError, match="not published"):
        run_adapt(str(checkpoint), frames, out, None, None, figures, 1, "cpu")
    source, adapted, held_out, known, validation, size, padding = judged
    for network, path in ((source, checkpoint), (adapted, out / "run" / "last.pt")):
        for name, value in load_checkpoint(path)["ema"].items():
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)
    kept = json.loads((out / "held-out.json").read_text(encoding="utf-8"))["annotations"]
    assert held_out.annotation_ids.tolist() == [person["id"] for person in kept]
    assert not held_out.labelled.any()
    for persons, part in ((known, "train"), (validation, "val")):
        assert {path.parent.parent.name for path in persons.images} == {part}
        assert persons.labelled.any()
    assert (size, padding) == ((64, 64), 1.25)


def test_only_the_checkpoint_of_a_located_training_is_adapted(
    checkpoint: Path, make_recipe: MakeRecipe, frames: Path, tmp_path: Path
) -> None:
    def run(model: object) -> None:
        run_adapt(str(model), frames, tmp_path / "out", None, None, None, 1, "cpu")

    with pytest.raises(BundleError, match="lfpose-lite is no checkpoint"):
        run("lfpose-lite")
    with pytest.raises(BundleError, match="no checkpoint at"):
        run(tmp_path / "nothing.pt")
    data = {
        "tags": {"sheet": "tags.csv", "images": "images"},
        "val": {"annotations": "val/annotations.json", "images": "val/images"},
    }
    state = load_checkpoint(checkpoint)
    state["recipe"] = make_recipe(network=SMALL, data=data).model_dump(mode="json")
    del state["format"]
    save_checkpoint(tmp_path / "tags.pt", state)
    with pytest.raises(RecipeError, match="was trained on no locations"):
        run(tmp_path / "tags.pt")
    located = {"train": {"annotations": "train/annotations.json", "images": "train/images"}}
    state["recipe"] = make_recipe(network=SMALL, data=located).model_dump(mode="json")
    save_checkpoint(tmp_path / "unmeasured.pt", state)
    with pytest.raises(RecipeError, match=r"trained without validation people \(data.val\)"):
        run(tmp_path / "unmeasured.pt")
    assert not (tmp_path / "out").exists()


def test_people_any_way_up_are_looked_at_in_four_turns(
    checkpoint: Path, make_recipe: MakeRecipe, frames: Path, figures: Path, tmp_path: Path
) -> None:
    with pytest.raises(AccuracyGateError):  # the source knows nothing yet
        run_adapt(str(checkpoint), frames, tmp_path / "out", None, None, figures, 1, "cpu", any_way_up=True)
    assert load_checkpoint(tmp_path / "out" / "run" / "last.pt")["recipe"]["loss"]["teacher_turns"] is True
    state = load_checkpoint(checkpoint)
    stages = [{"epochs": 1, "size": [96, 64]}]
    state["recipe"] = make_recipe(network=SMALL, stages=stages).model_dump(mode="json")
    del state["format"]
    save_checkpoint(tmp_path / "tall.pt", state)
    with pytest.raises(RecipeError, match="takes crops of 96x64, and only square ones are turned"):
        run_adapt(
            str(tmp_path / "tall.pt"), frames, tmp_path / "no", None, None, None, 1, "cpu", any_way_up=True
        )
    assert not (tmp_path / "no").exists()


def test_who_adapts_with_a_command_is_told_of_a_command_when_the_training_runs_away(
    checkpoint: Path, figures: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of a recipe are nothing that ``lfpose adapt`` could be given others of."""
    monkeypatch.setattr(bridge, "_ASTRAY", -99.0)
    before, out = checkpoint.read_bytes(), tmp_path / "my out"
    words = (
        r"runs astray, as .*; .*source\.pt is as it was: half the learning rates may do, lfpose train (.*)"
    )
    with pytest.raises(TrainingDiverged, match=words) as refused:
        run_adapt(str(checkpoint), frames, out, None, None, figures, 1, "cpu")
    assert checkpoint.read_bytes() == before
    recipe, *rest = shlex.split(str(refused.value).partition("lfpose train ")[2])
    assert rest[2:] == ["--data", str(figures), "--out", str(out / "slower"), "--device", "cpu"]
    plan, slower = load_recipe(recipe), load_recipe(recipe, rest[:2])
    assert plan.start_from == checkpoint
    for rate in ("lr_head", "lr_backbone"):
        assert getattr(slower.optimizer, rate) == pytest.approx(getattr(plan.optimizer, rate) / 2)
    same = {"optimizer": plan.optimizer}
    assert slower.model_copy(update=same) == plan


def test_what_publishing_needs_is_asked_for_before_the_training(
    checkpoint: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BackendUnavailable, match="onnxscript is missing: exporting needs the 'export' extra"):
        run_adapt(str(checkpoint), frames, tmp_path / "out", None, None, None, 1, "cpu")
    assert not (tmp_path / "out").exists()


def test_joints_that_the_sources_file_calls_otherwise_are_found(
    make_recipe: MakeRecipe, checkpoint: Path, figures: Path, frames: Path, tmp_path: Path
) -> None:
    """The run gets as far as the target's people, of whom there are too few."""
    root = Path(shutil.copytree(figures, tmp_path / "data"))
    for file in root.glob("*/annotations.json"):
        file.write_text(file.read_text(encoding="utf-8").replace('"neck"', '"thorax"'))
    state = load_checkpoint(checkpoint)
    for data in (state["recipe"]["data"]["train"][0], state["recipe"]["data"]["val"]):
        data["joints"] = {"neck": "thorax"}
    del state["format"]
    save_checkpoint(checkpoint, state)
    for file in sorted(frames.iterdir())[10:]:
        file.unlink()
    with pytest.raises(SourceError, match="8 people to adapt to and 2 to judge by are too few"):
        run_adapt(str(checkpoint), frames, tmp_path / "out", None, None, root, 1, "cpu")
    with pytest.raises(SourceError, match="has no joint 'thorax'"):
        run_adapt(str(checkpoint), frames, tmp_path / "out", None, None, figures, 1, "cpu")
