"""onnxsim: constants folded, and what computes nothing taken out."""

from __future__ import annotations

import logging

import onnx

logger = logging.getLogger("lfpose_edge")


def simplify(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A float32 model, simplified; as it is, with a warning, where onnxsim is not installed.

    Whether it computes what it computed is for the caller to see: onnxsim's own verdict is of no run.

    Args:
        model: weights stored as float32, for onnxsim would store halved ones as float32 too.
        name: the model's, for messages.
    """
    try:
        import onnxsim
    except ImportError:
        logger.warning(
            "onnxsim is not installed: the graph of %s is not simplified (pip install onnxsim)", name
        )
        return model
    try:
        simplified: onnx.ModelProto = onnxsim.simplify(model)[0]
    except Exception as error:  # its own checks, shape inference and ONNX Runtime raise kinds of their own
        reason = str(error).splitlines()[0]
        logger.warning("onnxsim cannot simplify %s, which is exported as it is: %s", name, reason)
        return model
    return simplified
