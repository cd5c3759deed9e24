"""Loops that threads share: what fails in one of them is an error like any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from lfpose_edge import ops

# Rows so long that the buffers of a kernel for one row exceed the memory that is still available.
OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from lfpose_edge import ops

threads, wide = int(sys.argv[1]), 1 << 20
image, out = np.zeros((8, 8, 3), np.uint8), np.zeros((4, 3, 1, wide), np.float32)
affines = np.tile(np.array([[1e-5, 0.2, 3.0], [-2e-6, 1.5, 3.0]]), (4, 1, 1))
ops.preprocess(image, affines, (4, 4), threads=threads)  # the team is there
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
try:
    ops.preprocess(image, affines, (1, wide), threads=threads, out=out)
except MemoryError:
    print("out of memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes memory away as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
def test_out_of_memory_is_an_error_and_no_end(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(threads)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "out of memory\n"), done.stderr


def crops(threads: int) -> NDArray[np.float32]:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    affines = np.array([[[0.5, 0.1, i], [-0.1, 0.5, 20.0]] for i in range(40_000)])
    return ops.preprocess(image, affines, (8, 8), threads=threads)


def test_a_team_is_no_larger_than_the_machine() -> None:
    """A thread for each of 40,000 crops would be more than a system starts."""
    np.testing.assert_array_equal(crops(40_000), crops(1))
