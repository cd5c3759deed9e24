"""The kernels in a child that was forked from a process whose threads had shared their loops."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PERSONS = 4
SCRIPT = f"""
import os, signal, sys
import numpy as np
from lfpose_edge import ops

random = np.random.default_rng(0)
image = random.integers(0, 256, (240, 320, 3), np.uint8)
affines = np.tile(np.array([[1.5, 0.2, 3.0], [-0.2, 1.5, 30.0]]), ({PERSONS}, 1, 1))
cams = random.normal(size=({PERSONS}, 14, 16, 16)).astype(np.float32)
presence = np.ones(({PERSONS}, 14), np.float32)

def work():
    crops = ops.preprocess(image, affines, (64, 64), threads=2)
    poses = ops.decode(cams, presence, affines, ops.DecodeConfig(4, 4), threads=2)
    return b"".join(part.tobytes() for part in (crops, *poses))

expected = work() if sys.argv[1] == "after" else None
if child := os.fork():
    _, status = os.waitpid(child, 0)
    same = expected is None or work() == expected  # the parent's threads are still there
    sys.exit(os.waitstatus_to_exitcode(status) or not same)
signal.alarm(20)  # ends a child that waits for threads that it has not
found = work()
os._exit(expected is not None and found != expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_forked_before_or_after_its_parent_shared_loops_gets_through(when: str) -> None:
    assert subprocess.run([sys.executable, "-c", SCRIPT, when], check=False, timeout=120).returncode == 0
