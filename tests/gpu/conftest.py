"""Tests that need a GPU, and say so if there is none."""

from __future__ import annotations

from typing import Any

import pytest

from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.ops import gpu


@pytest.fixture(scope="session")
def stream() -> Any:
    """A stream of the first device."""
    try:
        return gpu.open_device()
    except BackendUnavailable as error:
        pytest.skip(str(error))
