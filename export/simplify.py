"""onnxsim: constants folded, and what computes nothing taken out."""

from __future__ import annotations

import logging

import onnx

from lfpose_edge.errors import BundleError

logger = logging.getLogger("lfpose_edge")


def simplify(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A float32 model, simplified; as it is, with a warning, where onnxsim is not installed.

    Args:
        model: weights stored as float32, for onnxsim would store halved ones as float32 too.
        name: the model's, for messages.

    Raises:
        BundleError: the simplified model does not compute what the model computes.
    """
    try:
        import onnxsim
    except ImportError:
        logger.warning(
            "onnxsim is not installed: the graph of %s is not simplified (pip install onnxsim)", name
        )
        return model
    simplified, same = onnxsim.simplify(model)
    if not same:
        message = f"onnxsim changes what {name} computes; uninstall it, or report it to onnxsim's authors"
        raise BundleError(message)
    result: onnx.ModelProto = simplified
    return result
