"""Rich's console, as every command prints to it."""

from __future__ import annotations

import os

from rich.console import Console

_WIDE = 200  # columns, where no terminal says how many it has


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is.

    No markup, no highlighting, and no line is broken, which a path would not survive. Tables are as wide as
    the terminal lets them be; in a pipe or a log, as they need.
    """
    console = Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
