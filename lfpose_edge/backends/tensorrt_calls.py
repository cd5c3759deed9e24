"""TensorRT's callbacks during a build: logging and progress."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

logger = logging.getLogger("lfpose_edge")

Steps = Callable[[str, int, int], None]
"""Called with a phase of the build, the number of steps done, and their total."""


@cache
def log_of(trt: Any) -> Any:
    """A logger that keeps errors for our messages and passes warnings on to Python's logging.

    There is one per process, because TensorRT keeps using the first logger that it gets. TensorRT discards
    exceptions raised in its callbacks, even KeyboardInterrupt, so the logger keeps those too.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.raised: list[BaseException] = []

        def log(self, severity: Any, text: str) -> None:
            try:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    self.errors.append(text.strip().splitlines()[0])
                elif severity == trt.ILogger.Severity.WARNING:
                    logger.info("%s: %s", trt.__name__, text)
            except BaseException as error:  # noqa: BLE001  (it is raised again after the build)
                self.raised.append(error)

    return Log()


def make_monitor(trt: Any, steps: Steps | None, raised: list[BaseException]) -> Any:
    """A monitor that reports a build's progress to ``steps``, and stops it once a callback has raised."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._totals: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, total: int) -> None:
            self._totals[phase] = total
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return not raised

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self._totals[phase])

        def _tell(self, phase: str, done: int) -> None:
            try:
                if steps is not None:
                    steps(phase, done, self._totals[phase])
            except BaseException as error:  # noqa: BLE001
                raised.append(error)

    return Monitor()
