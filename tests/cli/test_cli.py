"""The command line, as a user meets it."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import write_spot_bundle

from lfpose_edge.backends import openvino
from lfpose_edge.cli import predict
from lfpose_edge.cli.errors import Stopped
from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.sources import Frame


def test_demo_prints_every_joint_and_writes_the_overlay(lfpose, tmp_path: Path) -> None:
    done = lfpose("demo")
    assert done.code == 0
    for word in ("head_top", "left_wrist", "score", "presence", "NASA", "lfpose-demo.jpg"):
        assert word in done.out
    overlay = cv2.imread(str(tmp_path / "lfpose-demo.jpg"))
    assert overlay.shape == (512, 512, 3)
    assert np.abs(overlay.astype(int) - cv2.imread(str(PHOTO))).max() > 100  # something was drawn
    assert [p.name for p in tmp_path.iterdir()] == ["lfpose-demo.jpg"]


@pytest.mark.parametrize(
    "words", [[], ["predict"], ["train"], ["eval"], ["bench"], ["doctor"], ["models"], ["data"]]
)
def test_help(lfpose, words: list[str]) -> None:
    done = lfpose(*words, "--help")
    assert done.code == 0
    assert "Usage" in done.out


def test_predict_writes_json_lines_and_overlays(lfpose, tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((64, 48, 3), 127, np.uint8))
    done = lfpose(
        "predict", tmp_path, "--json", "out.jsonl", "--save", "overlays", "--boxes", "0,0,20,40;10,5,48,64"
    )
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Path(r["source"]).name for r in rows] == ["a.png", "b.png"]
    assert [len(r["persons"]) for r in rows] == [2, 2]
    assert sorted(p.name for p in (tmp_path / "overlays").iterdir()) == ["a.jpg", "b.jpg"]


def test_predict_follows_people(lfpose, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(3):
        writer.write(np.full((64, 96, 3), 127, np.uint8))
    writer.release()
    boxes = ("--boxes", "0,0,40,60;50,4,90,64")
    for options, numbers in (((), [None, None]), (("--track",), [1, 2])):
        done = lfpose("predict", "in.avi", *boxes, *options, "--json", "out.jsonl")
        assert done.code == 0, done.err
        rows = [
            json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert [[p.get("track_id") for p in row["persons"]] for row in rows] == [numbers] * 3
    shown = lfpose("predict", "in.avi", *boxes, "--track").out
    assert shown.count(": 2 person(s): 1, 2, ") == 3  # a line a frame, without the table of an image
    assert "left_wrist" not in shown
    assert "3 frame(s), 6 pose(s) of 2 people" in shown


def test_results_on_a_terminal_stand_without_a_progress_bar(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # both streams count as a terminal
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    done = lfpose("predict", "a.png")
    assert ("a.png: 1 person(s)" in done.out, done.err) == (True, "")
    assert "frames" in lfpose("predict", "a.png", "--json", "a.jsonl").err


def test_predict_writes_a_video(lfpose, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert lfpose("predict", "in.avi", "--save", "out.avi", "--json", "out.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["time_s"] for row in rows] == pytest.approx([0, 0.1, 0.2], abs=0.01)
    (tmp_path / "out.jsonl").unlink()
    assert lfpose("predict", "in.avi", "--save", "frames").code == 0
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == ["frame_000000.jpg", "frame_000001.jpg", "frame_000002.jpg"]
    shutil.rmtree(tmp_path / "frames")
    capture = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert sum(capture.read()[0] for _ in range(4)) == 3
    assert capture.get(cv2.CAP_PROP_FPS) == 10  # the source's
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.avi", "out.avi"]


def test_models_and_doctor(lfpose) -> None:
    assert "lfpose-lite" in lfpose("models").out
    assert "onnxruntime: ready" in lfpose("doctor").out


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_doctor_says_of_an_engine_that_is_installed_why_it_does_not_start(
    lfpose, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)  # its import fails
    module = import_module(f"lfpose_edge.backends.{engine}")
    monkeypatch.setattr(module, "unavailable", lambda: None)
    monkeypatch.setattr(openvino, "_core", openvino._core.__wrapped__)  # not the one that is there already
    done = lfpose("doctor")
    assert done.code == 0, done.err
    assert f"  {engine}: {engine} is installed, and does not start: " in done.out
    assert "torch_tensorrt: " in done.out  # it goes on to the last


def test_inspect_says_what_a_model_is(lfpose) -> None:
    done = lfpose("models", "inspect", "lfpose-lite")
    assert done.code == 0, done.err
    for word in ("head_top", "192x192 rgb", "dark", "model.onnx", "fp32", "lfpose-lite"):
        assert word in done.out


def _broken(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(PHOTO.read_bytes()[:20000])
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "cut.jpg"], "cut.jpg is truncated"),
        (["predict", "zero.jpg"], "zero.jpg is empty"),
        (["predict", "text.jpg"], "text.jpg is damaged, or not an image"),
        (["predict", "empty"], "holds no image"),
        (["predict", "none.jpg"], "no file none.jpg"),
        (["predict", "photo.jpg", "--boxes", "1,2,3"], "--boxes"),
        (["predict", "photo.jpg", "--boxes", "5,5,5,9"], "box 0"),
        (["predict", "photo.jpg", "--boxes", "nan,5,6,9"], "box 0"),
        (["predict", "photo.jpg", "--model", "lfpose-light"], "did you mean 'lfpose-lite'"),
        (["predict", "photo.jpg", "--backend", "onnx"], "did you mean 'onnxruntime'"),
        (["predict", "photo.jpg", "--precision", "int4"], "precision must be one of"),
        (["predict", "photo.jpg", "--detector", "yolo"], "no detector 'yolo'"),
        (["predict", "photo.jpg", "--save", "out.docx"], ".docx"),
        (["predict", "photo.jpg", "--save", "out.pgm"], "neither a colour image's nor that of a video"),
        (["predict", "photo.jpg", "--save", "out.mpg"], "nor that of a video (.mp4, .m4v, .mov, .avi, .mkv)"),
        (["predict", "photo.jpg", "--save", "photo.jpg"], "--save photo.jpg is the source"),
        (["predict", "photo.jpg", "--json", "photo.jpg"], "--json photo.jpg is the source"),
        (["predict", "photo.jpg", "--save", "a.jpg", "--json", "a.jpg"], "is the file of --save too"),
        (["predict", "photo.jpg", "--json", "/dev/null"], "exists and is not a file"),
        (["predict", "photo.jpg", "--json", "empty"], "exists and is not a file"),
        (["predict", "photo.jpg", "--json", "photo.jpg/out.jsonl"], "photo.jpg is not a folder"),
        (["predict", "photo.jpg", "--save", ""], "--save is empty: give a path"),
        (["predict", "photo.jpg", "--json", ""], "--json is empty: give a path"),
        (["demo", "--out", ""], "--out is empty: give a path"),
        (["predict", "photo.jpg", "--save", "."], "--save . is the folder of photo.jpg"),
        (["predict", "*.jpg", "--save", "photo.jpg", "--keep-going"], "is one of the sources"),
        (["predict", "[p]hoto.jpg", "--json", "photo.jpg"], "is one of the sources"),
        (["predict", "photo.jpg", "--boxes", ""], "--boxes '' must look like"),
        (["predict", "photo.jpg", "--boxes", "0,0,1e99,9"], "box 0"),
        (["predict", "photo.jpg", "--boxes", "0,0,9,9", "--detector", "d.onnx"], "give one of them"),
        (["predict", "99999999999999999999"], "no camera 99999999999999999999"),
        (["predict", "text.mp4"], "cannot open text.mp4"),
        (["bench", "--model", "lfpose-light"], "did you mean 'lfpose-lite'"),
        (["train", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["eval", "none.json", "images"], "no annotation file"),
        (["eval", "a.json", "images", "--joint", "neck"], "must look like neck=thorax"),
        (["eval", "a.json", "images", "--against", "none.json"], "none.json cannot be read"),
        (["eval", "a.json", "images", "--against", "photo.jpg"], "photo.jpg is not a result"),
        (["eval", "a.json", "images", "--against", "deep.json"], "deep.json is not a result"),
        (["predict", "no\nwhere.jpg"], "no file no where.jpg"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(lfpose, tmp_path: Path, arguments: list[str], words: str) -> None:
    _broken(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (tmp_path / "deep.json").write_text("[" * 100_000)
    before = sorted(tmp_path.rglob("*"))
    done = lfpose(*arguments)
    assert done.code == 1
    assert done.out == ""
    lines = done.err.strip().split("\n")
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert sorted(tmp_path.rglob("*")) == before  # nothing half written


def test_a_source_named_by_a_url_is_not_replaced(lfpose, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    before = (tmp_path / "in.avi").read_bytes()
    for option in ("--save", "--json"):
        done = lfpose("predict", (tmp_path / "in.avi").as_uri(), option, "in.avi")
        assert (done.code, f"{option} in.avi is the source" in done.err) == (1, True)
    assert (tmp_path / "in.avi").read_bytes() == before


def test_a_failure_in_the_middle_leaves_no_half_file(lfpose, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.jpg"), np.zeros((48, 64, 3), np.uint8))
    (folder / "b.jpg").write_bytes(b"")
    done = lfpose("predict", folder, "--json", "out.jsonl", "--save", "out.avi")
    assert done.code == 1
    assert "b.jpg is empty" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]


def test_one_image_of_many_frames_writes_nothing(lfpose, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "frames" / f"{name}.jpg"), np.zeros((48, 64, 3), np.uint8))
    done = lfpose("predict", "frames", "--save", "out.jpg")
    assert done.code == 1
    assert "out.jpg is one image" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]


def test_keep_going_leaves_out_what_cannot_be_read_and_says_so(lfpose, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(folder / name), np.zeros((48, 64, 3), np.uint8))
    (folder / "b.jpg").write_bytes(b"")
    done = lfpose("predict", folder, "--save", "out", "--keep-going")
    assert done.code == 1
    assert "2 frame(s)" in done.out
    assert done.err == f"left out: {folder / 'b.jpg'} is empty (0 bytes)\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-1.jpg", "a.jpg"]


def test_an_image_that_the_boxes_do_not_fit_is_named_and_can_be_left_out(lfpose, tmp_path: Path) -> None:
    for name, width in (("a.png", 64), ("b.png", 24), ("c.png", 64)):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, width, 3), np.uint8))
    asked = ("predict", "*.png", "--boxes", "30,0,60,40", "--json", "out.jsonl")
    done = lfpose(*asked)
    assert (done.code, done.err.count("\n"), done.err.startswith("error: b.png: box 0")) == (1, 1, True)
    assert "out.jsonl would be of a part alone: not written (--keep-going leaves out" in done.err
    assert not (tmp_path / "out.jsonl").exists()
    done = lfpose(*asked, "--keep-going")
    assert (done.code, done.err.count("\n"), done.err.startswith("left out: b.png: box 0")) == (1, 1, True)
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_folder_named_by_digits_is_a_folder(lfpose, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    cv2.imwrite(str(tmp_path / "7" / "a.png"), np.zeros((48, 64, 3), np.uint8))
    assert "1 person(s)" in lfpose("predict", "7").out


def test_an_existing_folder_may_have_a_dot_in_its_name(lfpose, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (tmp_path / "run.1").mkdir()
    assert lfpose("predict", "photo.jpg", "--save", "run.1").code == 0
    assert (tmp_path / "run.1" / "photo.jpg").is_file()


def test_version(lfpose) -> None:
    done = lfpose("--version")
    assert done.out.startswith("lfpose-edge ")
    assert done.code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_and_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (640, 480))
    for _ in range(400):
        writer.write(np.zeros((480, 640, 3), np.uint8))
    writer.release()
    # A job in the background starts with Ctrl-C ignored, and so does what it starts.
    reset = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{reset}; from lfpose_edge.cli.main import main; main()"
    command = [sys.executable, "-c", code, "predict", "in.avi"]
    process = subprocess.Popen(
        [*command, "--save", "out.avi", "--json", "out.jsonl"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.part.avi")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "stopped\n")
    assert [p.name for p in tmp_path.iterdir()] == ["in.avi"]


def test_what_a_stream_gave_until_it_was_stopped_is_kept(
    lfpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Iterator[Frame]:
        for i in range(3):
            yield Frame(np.zeros((48, 64, 3), np.uint8), f"frame {i}", i, fps=10.0)
        raise Stopped

    monkeypatch.setattr(predict, "frames", stream)
    done = lfpose("predict", "http://camera/stream", "--json", "live.jsonl", "--save", "live.avi")
    assert done.code == 130
    assert "3 frame(s)" in done.out
    assert done.err.strip() == "stopped"
    assert len((tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert cv2.VideoCapture(str(tmp_path / "live.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    # A file has an end, so half of it is nothing.
    (tmp_path / "in.avi").write_bytes(b"")
    assert lfpose("predict", "in.avi", "--json", "half.jsonl").code == 130
    assert not (tmp_path / "half.jsonl").exists()


def test_an_empty_source_is_an_error(lfpose) -> None:
    done = lfpose("predict", "")
    assert (done.code, "the source is empty" in done.err) == (1, True)


def test_a_shipped_models_name_wins_over_a_folder_and_says_so(
    lfpose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lfpose-lite").mkdir()
    (tmp_path / "lfpose-lite" / "manifest.json").write_text("{}")
    assert lfpose("models", "inspect", "lfpose-lite").code == 0
    assert "the folder of that name here is ./lfpose-lite" in caplog.text


def test_inspect_checks_the_engines_too(lfpose, tmp_path: Path) -> None:
    bundle = write_spot_bundle(tmp_path / "b")
    (bundle / "engines").mkdir()
    engine = bundle / "engines" / "0123.engine"
    engine.write_bytes(b"plan")
    facts = {"engine_sha256": hashlib.sha256(b"plan").hexdigest(), "library": "tensorrt", "gpu": "Orin"}
    engine.with_suffix(".json").write_text(json.dumps(facts))
    for beside in (".lock", ".timing"):  # of the cache that it was built in
        engine.with_suffix(beside).touch()
    assert "0123.engine, tensorrt ? ? Orin, as its checksum says" in lfpose("models", "inspect", "b").out
    engine.write_bytes(b"plam")
    done = lfpose("models", "inspect", "b")
    assert (done.code, "0123.engine is damaged" in done.err) == (1, True)


def test_verbose_adds_the_trace(lfpose) -> None:
    done = lfpose("predict", "none.jpg", "--verbose")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "SourceError" in done.err
