"""The Rich console that every command prints to."""

from __future__ import annotations

import os

from rich.console import Console

_WIDE = 200  # columns, if neither a terminal nor $COLUMNS says how many there are


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text unchanged.

    There is no markup, no highlighting, and no line wrapping, which would break paths. Tables are limited to
    the terminal's width; in a pipe or a log they get 200 columns.
    """
    console = Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
