"""How commands end: errors are one line on stderr; ``--verbose`` adds the trace."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from lfpose_edge.errors import LFPoseError, SourceError

_EXPECTED = (LFPoseError, ValueError, TypeError, OSError, ImportError)
_LONGEST = 400  # characters of an error of several lines
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(BaseException):
    """The user or the system asked the command to stop; half-written files are removed on the way out."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stops_held() -> Iterator[None]:
    """Hold back signals to stop until the end of the block."""
    heard: list[int] = []
    previous: dict[int, Any] = {}
    hears = threading.current_thread() is threading.main_thread()
    try:
        for number in _SIGNALS if hears else ():
            handler = signal.getsignal(number)
            if callable(handler):
                previous[number] = handler
                signal.signal(number, lambda number, _: heard.append(number))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


def require_no_input(out: Path, *inputs: Path) -> None:
    """Raise SourceError if an output is one of the files that the command reads."""
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            message = f"--out {out} is a file that is read: give another path"
            raise SourceError(message)


def list_left_out(unreadable: Sequence[SourceError]) -> None:
    """Print what ``--keep-going`` left out, each image once, however many people are on it."""
    for said in dict.fromkeys(map(str, unreadable)):
        typer.echo(f"left out: {said}", err=True)


def run_command(app: typer.Typer) -> None:
    """Run a command line; the exit code is 0 only if everything that was asked for was done.

    ``--verbose`` anywhere on the line shows the log and, on an error, the trace.
    """
    verbose = "--verbose" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--verbose"]
    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
    if not verbose:
        # OpenCV and FFmpeg print to stderr what we report as an error, too. Set before OpenCV is imported.
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    for stream in (sys.stdout, sys.stderr):  # None if it is closed; file names may hold any bytes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stop_signals():
            app(args=arguments)
    except _EXPECTED as error:
        if verbose:
            traceback.print_exc()
        else:
            typer.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(1)
    except Stopped as stop:
        typer.echo("stopped", err=True)
        sys.exit(stop.exit_code)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, LFPoseError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    lines = str(error).strip().splitlines()
    if isinstance(error, LFPoseError) and len(lines) > 1:  # from a file's name, or a verbose library
        text = " ".join(lines)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... (--verbose shows all)"
    return lines[0] if lines else type(error).__name__


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Turn signals that end a process into :class:`Stopped`, so that context managers clean up."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    previous: dict[int, Any] = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                previous[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread
        previous.clear()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
