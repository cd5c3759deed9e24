"""Inference engines, and the choice between them."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import cast

from lfpose_edge.backends.base import Backend, BackendKind, Request, does_not_start
from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, LFPoseError, did_you_mean

__all__ = ["ON_GPU", "Backend", "Request", "available", "load_backend"]

logger = logging.getLogger("lfpose_edge")

# Best first. A module is imported only when its engine is considered.
_KINDS = ("tensorrt", "tensorrt_rtx", "openvino", "onnxruntime", "torch_tensorrt")
ON_GPU = ("tensorrt", "tensorrt_rtx", "torch_tensorrt")
_WHEN_NAMED = ("torch_tensorrt",)  # never chosen by auto, so that torch is only imported on request
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_X86 = ("x86_64", "AMD64")


def available() -> dict[str, str | None]:
    """Every backend, best first, with the reason why this machine cannot run it, or None if it can."""
    return {name: _kind(name).unavailable() for name in _KINDS}


def load_backend(
    bundle: Bundle, name: str, request: Request, prepare: Callable[[Backend], None] | None = None
) -> Backend:
    """Load a bundle into the named backend, or for ``auto`` into the best one on this machine.

    A named backend is never silently replaced by another one.

    Args:
        bundle: the model.
        name: the backend's name, or ``auto``.
        request: device, precision and other settings.
        prepare: called with the backend before it counts as loaded; if it raises, the backend is closed.

    Raises:
        BackendUnavailable: the name is unknown, the engine is not installed, or it cannot meet the request.
        TypeError: the name or the request's device is not a str.
    """
    if not isinstance(name, str) or not isinstance(request.device, str):
        message = f"backend and device are names such as 'auto', got {name!r} and {request.device!r}"
        raise TypeError(message)
    if not _DEVICE.fullmatch(request.device):
        message = f"unknown device {request.device!r}: it is auto, cpu, cuda or cuda:N"
        raise BackendUnavailable(message)
    if name != "auto":
        if name not in _KINDS:
            message = f"unknown backend {name!r}; {did_you_mean(name, ('auto', *_KINDS))}"
            raise BackendUnavailable(message)
        reason = _kind(name).unavailable()
        if reason:
            message = f"backend {name!r} is not available: {reason}"
            raise BackendUnavailable(message)
        return _load(name, bundle, request, prepare)

    passed_over: list[tuple[str, str]] = []
    for candidate in _KINDS:
        if candidate in _WHEN_NAMED or (candidate in ON_GPU and request.device == "cpu"):
            continue
        reason = _kind(candidate).unavailable() or _worse_here(candidate)
        if reason is None:
            try:
                backend = _load(candidate, bundle, request, prepare)
            except (LFPoseError, OSError) as error:
                if candidate not in ON_GPU and not isinstance(error, BackendUnavailable):
                    raise
                reason = str(error)
                if candidate in ON_GPU and request.device == "auto":
                    logger.warning("%s is here, and does not work: %s", candidate, reason)
            else:
                why = "; ".join(f"not {other}: {text}" for other, text in passed_over)
                logger.info("backend auto: %s%s", backend.description, f" ({why})" if why else "")
                return backend
        passed_over.append((candidate, reason))
    reasons = "; ".join(f"{other}: {text}" for other, text in passed_over)
    message = f"no backend can do device {request.device!r} at precision {request.precision!r}: {reasons}"
    raise BackendUnavailable(message)


def _kind(name: str) -> BackendKind:
    return cast(BackendKind, import_module(f"lfpose_edge.backends.{name}"))


def _load(name: str, bundle: Bundle, request: Request, prepare: Callable[[Backend], None] | None) -> Backend:
    try:
        backend = _kind(name).load(bundle, request)
    except ImportError as error:  # a part of it is missing or has the wrong version
        raise BackendUnavailable(does_not_start(name, error)) from error
    with ExitStack() as undo:
        undo.callback(backend.close)
        if prepare is not None:
            prepare(backend)
        undo.pop_all()
    return backend


def _worse_here(name: str) -> str | None:
    if name == "openvino" and platform.machine() not in _X86:
        return f"auto prefers onnxruntime on {platform.machine()}"
    return None
