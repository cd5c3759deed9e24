"""The end of the process: calls of engines that are under way are waited for.

A daemon thread is cut off when the interpreter ends, and inside of an engine's C++ that ends the process with
an abort, after all work was done (onnxruntime and OpenVINO, whose bindings are pybind11's).
"""

from __future__ import annotations

import atexit
import os
import threading
from types import TracebackType
from typing import Literal

_LONGEST_S = 10.0  # that the exit waits


class _Calls:
    """Counts the calls under way. At the exit of the process none begins but the main thread's own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, where none of them is under way."""
        self._changed = threading.Condition()
        self._under_way = 0
        self._leaving = False

    def __enter__(self) -> None:
        with self._changed:
            while self._leaving and threading.current_thread() is not threading.main_thread():
                self._changed.wait()  # for the end
            self._under_way += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()
        return False

    def end(self) -> None:
        """Let no other begin, and wait for those that have."""
        with self._changed:
            self._leaving = True
            self._changed.wait_for(lambda: self._under_way <= 0, timeout=_LONGEST_S)


CALLS = _Calls()
atexit.register(CALLS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CALLS.forget)
