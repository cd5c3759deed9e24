"""What TensorRT calls back while it builds: its log, and how far it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

logger = logging.getLogger("lfpose_edge")

Steps = Callable[[str, int, int], None]
"""Called with a phase of the build, the steps done and the steps in all."""


@cache
def log_of(trt: Any) -> Any:
    """A logger that keeps errors for our message and passes warnings on to Python's logging.

    One for the whole process: TensorRT keeps the first that it is given, and uses it until the end. It drops
    what is raised while it calls back, Ctrl-C too, so that is kept as well.
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
    """Tells ``steps`` how a build goes on, and ends it when something was raised in a call back."""

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
