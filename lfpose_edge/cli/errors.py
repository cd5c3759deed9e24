"""How commands end: errors are one line on stderr; ``--verbose`` adds the trace."""

from __future__ import annotations

import logging
import sys
import traceback

import typer

from lfpose_edge.errors import LFPoseError

_EXPECTED = (LFPoseError, ValueError, TypeError, OSError, ImportError)


def run_command(app: typer.Typer) -> None:
    """Run a command line; exit code 0 only when what was asked was done.

    ``--verbose`` anywhere on the line shows the log and, on an error, the trace.
    """
    verbose = "--verbose" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--verbose"]
    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
    try:
        app(args=arguments)
    except _EXPECTED as error:
        if verbose:
            traceback.print_exc()
        else:
            first_line = str(error).strip().split("\n", 1)[0]
            typer.echo(f"error: {first_line or type(error).__name__}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
