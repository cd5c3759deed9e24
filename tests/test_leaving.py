"""The end of a process whose daemon threads are in the middle of a call."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading

import pytest

from lfpose_edge import leaving
from lfpose_edge.leaving import _Calls

ESTIMATOR = """
from lfpose_edge import PoseEstimator
pose = PoseEstimator(backend={backend!r}, threads=1)
image = np.zeros((240, 320, 3), np.uint8)
def call():
    pose(image)
"""
LOADED = """
from lfpose_edge import PoseEstimator
def call():
    PoseEstimator(backend="onnxruntime", threads=1)
"""
VIDEO = """
import os, tempfile
import cv2
from lfpose_edge import frames
path = os.path.join(tempfile.mkdtemp(), "video.avi")
writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (640, 480))
for i in range(50):
    writer.write(np.full((480, 640, 3), i, np.uint8))
writer.release()
def call():
    for _ in frames(path, "rgb"):
        pass
"""
KERNELS = """
from lfpose_edge import ops
image, cams = np.zeros((240, 320, 3), np.uint8), np.zeros((4, 14, 48, 48), np.float32)
affines = np.tile(np.array([[1.5, 0.2, 3.0], [-0.2, 1.5, 30.0]]), (4, 1, 1))
def call():
    ops.preprocess(image, affines, (192, 192), threads=1)
    ops.decode(cams, np.ones((4, 14), np.float32), affines, ops.DecodeConfig(4, 4), threads=1)
"""
SCRIPT = """
import threading, time
import numpy as np
{setup}
called = threading.Event()
def work():
    while True:
        call()
        called.set()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
called.wait()
time.sleep(0.05)
print("done")
"""


CALLED = {
    "onnxruntime": ESTIMATOR.format(backend="onnxruntime"),
    "openvino": ESTIMATOR.format(backend="openvino"),
    "loaded": LOADED,
    "video": VIDEO,
    "kernels": KERNELS,
}


@pytest.mark.parametrize("called", CALLED)
def test_a_process_ends_while_daemon_threads_call(called: str) -> None:
    if called == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    setup = CALLED[called]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(setup=setup)], capture_output=True, encoding="utf-8", timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_end_waits_for_calls_and_lets_no_other_begin() -> None:
    calls, inside, go, order = _Calls(), threading.Event(), threading.Event(), []

    def work() -> None:
        with calls:
            inside.set()
            go.wait()
            order.append("call")
        with pytest.raises(RuntimeError, match="the process is ending"):  # for whoever waits for this thread
            calls.__enter__()
        order.append("refused")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    inside.wait()
    threading.Timer(0.1, go.set).start()
    calls.end()
    order.append("end")
    with calls:  # of the main thread, whose own handlers may still call
        order.append("main")
    thread.join()
    assert order == ["call", "end", "main", "refused"]


JOINED = """
import atexit, threading
stop = threading.Event()
def work():
    while not stop.is_set():
        call()
        called.set()
worker = threading.Thread(target=work, daemon=True)
def join():
    stop.set()
    worker.join()
atexit.register(join)  # before ours, so that it runs after
import numpy as np
{setup}
called = threading.Event()
worker.start()
called.wait()
print("done")
"""


def test_an_exit_handler_may_wait_for_a_thread_that_calls() -> None:
    script = JOINED.format(setup=ESTIMATOR.format(backend="onnxruntime"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_call_within_a_call_begins_even_then() -> None:
    calls, inside, go, order = _Calls(), threading.Event(), threading.Event(), []

    def work() -> None:
        with calls:
            inside.set()
            go.wait()
            with calls:
                order.append("within")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    inside.wait()
    threading.Timer(0.1, go.set).start()
    calls.end()
    assert order == ["within"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_LONGEST_S", None)  # for ever
    calls = _Calls()
    with calls:
        calls.forget()
        calls.end()  # or the test does not end
    assert calls._under_way == 0
