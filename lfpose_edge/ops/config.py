"""How CAMs are decoded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from lfpose_edge import _core
from lfpose_edge.bundle import Decode

Method = Literal["none", "quarter", "dark", "softargmax"]


@dataclass(frozen=True)
class DecodeConfig:
    """The constants of decoding, as in a bundle's manifest.

    Attributes:
        stride: crop pixels per CAM cell.
        upsample: integer factor of the virtual bilinear upsampling; a factor equal to the stride gives crop
            resolution.
        method: how the peak is refined to less than an upsampled pixel: ``none``; ``quarter``, a quarter
            pixel towards the higher neighbour; ``dark``, one Newton step on the logarithm of the blurred
            probabilities (Zhang et al., CVPR 2020); ``softargmax``, the expectation in a window.
        blur_sigma: standard deviation of the blur of ``dark``, in CAM cells.
        window: radius of the window of ``softargmax``, in CAM cells.
    """

    stride: float
    upsample: int = 4
    method: Method = "dark"
    blur_sigma: float = 1.0
    window: int = 2

    def __post_init__(self) -> None:
        limits = {
            "stride": (0 < self.stride < math.inf, "positive"),
            "upsample": (isinstance(self.upsample, int) and 1 <= self.upsample <= 64, "an int in 1..64"),
            "method": (self.method in get_args(Method), f"one of {', '.join(get_args(Method))}"),
            "blur_sigma": (0 < self.blur_sigma <= 8, "in (0, 8] cells"),
            "window": (isinstance(self.window, int) and 1 <= self.window <= 16, "an int in 1..16 cells"),
        }
        for name, (good, rule) in limits.items():
            if not good:
                message = f"DecodeConfig.{name} must be {rule}, got {getattr(self, name)!r}"
                raise ValueError(message)

    @classmethod
    def of(cls, decode: Decode) -> DecodeConfig:
        """Make the constants from a manifest's ``decode`` section."""
        return cls(decode.cam_stride, decode.upsample, decode.method, decode.blur_sigma, decode.window)

    @property
    def constants(self) -> tuple[float, int, Method, float, int]:
        """The constants in the order that the CPU and GPU kernels take them."""
        return self.stride, self.upsample, self.method, self.blur_sigma, self.window

    @cached_property
    def spec(self) -> _core.DecodeSpec:
        """The constants in the form that the CPU kernel takes."""
        return _core.DecodeSpec(*self.constants)

    def __getstate__(self) -> dict[str, Any]:
        """The constants without the cached ``spec``, for copying and pickling."""
        return asdict(self)
