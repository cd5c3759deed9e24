"""Options of the commands reach the code that does the work."""

from __future__ import annotations

import inspect
import json
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import write_spot_bundle

from lfpose_edge import StageTimings
from lfpose_edge.cli import bench
from lfpose_edge.cli.predict import PHOTO, PredictOptions, parse_boxes
from lfpose_edge.errors import EngineMismatch


def test_bench_of_one_backend(lfpose, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = lfpose("bench", "--seconds", "0.1", "--threads", "1", "--backend", "onnxruntime").out
    engines = {line.split()[0] for line in shown.splitlines()[1:] if "int8" in line or "fp32" in line}
    assert engines == {"onnxruntime"}
    done = lfpose("bench", "--backend", "onnxruntim")
    assert (done.code, done.out) == (1, "")
    assert "unknown backend 'onnxruntim'; did you mean 'onnxruntime'" in done.err
    monkeypatch.setattr("lfpose_edge.cli.bench.available", lambda: {"tensorrt": "no GPU is here"})
    done = lfpose("bench", "--backend", "tensorrt")
    assert (done.code, "backend 'tensorrt' is not available: no GPU is here" in done.err) == (1, True)


def test_bench_of_what_nothing_here_runs_is_an_error(lfpose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfpose_edge.cli.bench.available", lambda: {"tensorrt": "no GPU is here"})
    done = lfpose("bench", "--seconds", "0.1")
    assert done.code == 1
    assert "no backend here can run lfpose-lite: `lfpose doctor` says why" in done.err


def test_devices_reach_the_estimator(lfpose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfpose_edge.cli.bench.available", lambda: {"onnxruntime": None})
    monkeypatch.setattr("lfpose_edge.backends.onnxruntime.without_cuda", lambda: "it was built without CUDA")
    for command in (
        ("demo", "--backend", "onnxruntime"),
        ("predict", PHOTO, "--backend", "onnxruntime"),
        ("bench", "--seconds", "0.1"),
    ):
        done = lfpose(*command, "--device", "cuda")
        assert (done.code, "has no device 'cuda': it was built without CUDA" in done.err) == (1, True)


def test_bench_says_what_is_wrong_with_a_bundle_that_no_backend_runs(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = {"cam_stride": 8, "upsample": 4, "method": "none"}  # which the network contradicts
    bundle = write_spot_bundle(tmp_path / "b", decode=decode)
    monkeypatch.setattr("lfpose_edge.cli.bench.available", lambda: {"onnxruntime": None})
    done = lfpose("bench", "--model", bundle, "--seconds", "0.1")
    assert (done.code, "cams and presence must have shapes" in done.err) == (1, True)


def test_a_subset_of_ones_own_data(lfpose, tmp_path: Path) -> None:
    people = [
        {"id": i, "image_id": i // 2, "bbox": [0, 0, 100 if i % 4 else 50, 100], "keypoints": [1, 1, 2] * 9}
        for i in range(100)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(60)]
    people += [{"id": 200, "image_id": 0, "bbox": [0, 0, 100, 100]}]  # without joints
    tree = {"images": images, "annotations": people, "categories": [{"id": 1, "keypoints": ["nose"] * 9}]}
    (tmp_path / "all.json").write_text(json.dumps(tree))
    done = lfpose("data", "make-subset", "all.json", "--out", "some.json", "--persons", "40")
    assert done.out == "wrote some.json: 40 persons\n", done.err
    some = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert len(some["annotations"]) == 40
    assert all(person["id"] % 4 for person in some["annotations"])
    assert {image["id"] for image in some["images"]} == {p["image_id"] for p in some["annotations"]}
    done = lfpose("data", "make-subset", "all.json", "--out", "all2.json")
    assert done.out == "wrote all2.json: 75 persons of the 512 asked for\n"
    done = lfpose("data", "make-subset", "all.json", "--out", "none.json", "--min-joints", "10")
    assert done.code == 1
    assert "has 0 persons with 10 labelled joints" in done.err
    assert not (tmp_path / "none.json").exists()
    done = lfpose("data", "make-subset", "all.json", "--out", "all.json")
    assert "is the file to choose from" in done.err
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8")) == tree
    (tmp_path / "fewer.json").write_text(json.dumps({**tree, "images": images[1:]}))
    done = lfpose("data", "make-subset", "fewer.json", "--out", "out.json")
    assert (done.code, "it has no image 0" in done.err) == (1, True)
    (tmp_path / "odd.json").write_text(json.dumps({**tree, "annotations": [None]}))
    done = lfpose("data", "make-subset", "odd.json", "--out", "out.json")
    assert (done.code, "odd.json: not a COCO-keypoints JSON" in done.err) == (1, True)
    assert not (tmp_path / "out.json").exists()


def test_a_subset_is_of_the_persons_that_an_evaluation_reads(lfpose, tmp_path: Path) -> None:
    place = {"image_id": 1, "bbox": [0, 0, 100, 100], "keypoints": [1, 1, 2] * 9, "iscrowd": "0"}
    people = [{**place, "id": i, "category_id": 1} for i in range(60)]
    crowd = {**place, "id": 90, "category_id": 1, "iscrowd": "1"}
    horse = {**place, "id": 91, "category_id": 2}
    kinds = [{"id": 1, "name": "human", "keypoints": list("abcdefghi")}, {"id": 2, "name": "horse"}]
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [*people, crowd, horse],
        "categories": kinds,
    }
    (tmp_path / "all.json").write_text(json.dumps(tree))
    done = lfpose("data", "make-subset", "all.json", "--out", "some.json")
    assert done.out == "wrote some.json: 60 persons of the 512 asked for\n", done.err
    one = {"image": "a.jpg", "center": [9, 9], "scale": 1, "joints": [[1, 1]] * 16, "joints_vis": [1] * 16}
    (tmp_path / "mpii.json").write_text(json.dumps([one] * 60))
    done = lfpose("data", "make-subset", "mpii.json", "--out", "some.json")
    assert done.out == "wrote some.json: 60 persons of the 512 asked for\n", done.err


def test_outputs_and_devices_are_checked_before_the_work(lfpose, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = lfpose("eval", "a.json", "images", "--json", "file/out.json")
    assert (done.code, "its folder cannot be made" in done.err) == (1, True)
    pytest.importorskip("lightning", reason="the train extra is not installed")
    done = lfpose("train", "lfpose_lite", "--out", "file")
    assert (done.code, "its folder cannot be made" in done.err) == (1, True)
    done = lfpose("train", "lfpose_lite", "--device", "tpu")
    assert (done.code, "has no device 'tpu' here" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "function", "given"),
    [
        ("demo --device cuda:1", "predict.run_demo", {"device": "cuda:1", "out": "lfpose-demo.jpg"}),
        (
            "predict a.jpg --device cuda:1 --precision fp32 --save b.jpg --threads 2 --track",
            "predict.run_predict",
            {
                "options": PredictOptions(
                    source=["a.jpg"],
                    model="lfpose-lite",
                    backend="auto",
                    precision="fp32",
                    device="cuda:1",
                    detector=None,
                    boxes=None,
                    save="b.jpg",
                    json=None,
                    threads=2,
                    keep_going=False,
                    track=True,
                )
            },
        ),
        (
            "bench --device cuda --backend onnxruntime",
            "bench.run_bench",
            {"device": "cuda", "threads": None, "backend": "onnxruntime"},
        ),
        (
            "data label a.json images --teacher t --out b.json --min-score 0.7 --grow 1 --grow 2 --upright",
            "labelling.run_label",
            {"min_score": 0.7, "grows": [1.0, 2.0], "upright": True, "mirrored": True},
        ),
        ("data crowd a.json images --out c --seed 3", "labelling.run_crowd", {"seed": 3}),
        (
            "tags make a.json images --out b.csv --regions 9 --seed 3",
            "tagging.run_make",
            {"regions": 9, "seed": 3},
        ),
        (
            "tags page b.csv images --out p.html --skeleton coco17",
            "tagging.run_page",
            {"out": Path("p.html"), "skeleton": "coco17"},
        ),
        (
            "tags simulate b.csv a.json images --out c.csv --mistakes 0.1 --seed 3",
            "tagging.run_simulate",
            {"mistakes": 0.1, "seed": 3},
        ),
    ],
    ids=lambda value: value.split(" -")[0] if isinstance(value, str) else "",
)
def test_options_reach_what_does_the_work(
    lfpose, monkeypatch: pytest.MonkeyPatch, words: str, function: str, given: dict[str, Any]
) -> None:
    module, _, name = function.partition(".")
    module = import_module(f"lfpose_edge.cli.{module}")
    names = inspect.signature(getattr(module, name))
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(module, name, lambda *a, **k: calls.append(names.bind(*a, **k).arguments))
    assert lfpose(*words.split()).code == 0
    (called,) = calls
    assert {option: called[option] for option in given} == given


def test_frames_a_second_are_those_of_the_median_frame() -> None:
    times = np.array([[4.0] + [0.5] * 5, [2.0] + [0.25] * 5, [8.0] + [1.0] * 5])
    times = times[:, : 1 + len(fields(StageTimings))]
    row = bench._row(bench.Case(lambda: None, "paper", 1, 1), times)
    assert row["fps"] == pytest.approx(250)
    assert row["total_p50_ms"] == 4.0


def test_box_lists() -> None:
    assert parse_boxes("1,2,3,4;5,6,7,8").tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert parse_boxes(" 1, 2,3,4 ;").shape == (1, 4)


def test_data_label_writes_what_a_model_sees(lfpose, tmp_path: Path) -> None:
    bundle = write_spot_bundle(tmp_path / "spot")
    picture = np.zeros((64, 48, 3), np.uint8)
    cv2.circle(picture, (30, 20), 5, (0, 0, 255), -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 40, 56]}
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [person], "categories": []}
    (tmp_path / "boxes.json").write_text(json.dumps(tree))
    done = lfpose("data", "label", "boxes.json", ".", "--teacher", bundle, "--out", "labels/out.json")
    assert done.code == 0, done.err
    assert "wrote labels/out.json: 1 of 1 persons, 3.0 joints each" in done.err
    (labelled,) = json.loads((tmp_path / "labels/out.json").read_text(encoding="utf-8"))["annotations"]
    places = np.array(labelled["keypoints"]).reshape(3, 3)
    np.testing.assert_allclose(places, [[30, 20, 2]] * 3, atol=2)
    tree["images"].append({"id": 2, "file_name": "b.png"})
    tree["annotations"] += [{**person, "id": 2, "image_id": 2}, {**person, "id": 3, "image_id": 2}]
    (tmp_path / "boxes.json").write_text(json.dumps(tree))
    asked = ("data", "label", "boxes.json", ".", "--teacher", bundle, "--out", "some.json")
    done = lfpose(*asked)
    assert (done.code, (tmp_path / "some.json").exists()) == (1, False)
    done = lfpose(*asked, "--keep-going")
    assert (done.code, done.err.count("left out: "), "b.png" in done.err) == (1, 1, True)
    assert "wrote some.json: 1 of 3 persons" in done.err
    (tmp_path / "a.png").write_bytes(b"")
    done = lfpose(*asked[:-1], "none.json", "--keep-going")
    assert (done.code, done.err.count("left out: ")) == (1, 2)
    assert "of none of its 3 persons there is a picture" in done.err
    done = lfpose("data", "label", "boxes.json", ".", "--teacher", "spto", "--out", "no.json")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert not (tmp_path / "no.json").exists()


def test_a_backend_whose_engine_cannot_be_read_is_left_out_of_the_table_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def open_one(model: str, *, precision: str, **_: object) -> object:
        if precision == "int8":
            message = "it was built for another GPU"
            raise EngineMismatch(message)
        return nullcontext(precision)

    monkeypatch.setattr(bench, "available", lambda: {"onnxruntime": None})
    monkeypatch.setattr(bench, "PoseEstimator", open_one)
    with ExitStack() as stack:
        found = list(bench._estimators("spot", "auto", 1, 8, stack, {}, with_gpu=False))
    assert "int8" not in found
    assert "fp32" in found
    assert "onnxruntime int8 is left out: it was built for another GPU" in caplog.text
