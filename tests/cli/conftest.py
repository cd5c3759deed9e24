"""A command line in an empty folder."""

from __future__ import annotations

from functools import partial

import pytest

from lfpose_edge.cli import main as cli


@pytest.fixture
def lfpose(command):
    """Runs ``lfpose`` in an empty folder."""
    return partial(command, cli.main, "lfpose")
