"""The network that a recipe trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lfpose_edge.train.recipe.base import Fraction, Section


class Context(Section):
    """The multi-scale spatial-guided context encoder; see ``networks/context_encoder.py``."""

    strides: tuple[Literal[8, 16, 32], ...] = (8, 16, 32)
    """Strides of the maps that are attended to, finest first; a single one means single scale."""
    asking: Literal[8, 16, 32] = 16
    """Stride of the map whose cells attend to all maps, and where the decoder begins."""
    width: int = Field(96, ge=8)
    """Channels of a token; a multiple of 4 and of ``heads``."""
    layers: int = Field(2, ge=1)
    """Attention layers."""
    heads: int = Field(4, ge=1)
    """Attention heads per layer."""
    guided: bool = True
    """Raise the attention to where joints are likely to be."""

    @model_validator(mode="after")
    def _check(self) -> Context:
        if list(self.strides) != sorted(set(self.strides)) or self.asking not in self.strides:
            message = f"strides {list(self.strides)} must rise, and {self.asking}, which asks, be among them"
            raise ValueError(message)
        if self.width % 4 or self.width % self.heads:
            message = f"width {self.width} must be a multiple of 4 and of the {self.heads} heads"
            raise ValueError(message)
        return self


class Prototyping(Section):
    """Relation-encoded pose prototypes, which replace the CAM head; see ``networks/prototypes.py``."""

    layers: int = Field(2, ge=0)
    """Layers of relation encoding; 0 leaves it out."""
    heads: int = Field(4, ge=1)
    """Attention heads per layer."""
    memory: bool = True
    """Keep the mean prototypes of the data set."""


Upsample = Literal["nearest", "duc", "duc_separable"]


class Decoding(Section):
    """How the decoder gets from the coarsest map to the CAM's stride; see ``networks/decoder.py``."""

    upsample: Upsample = "nearest"
    """How a map's sides are doubled: by nearest-neighbour copies; by EFASNet's dense upsampling convolution,
    DUC; or by DUC split into a depthwise and a pointwise convolution."""
    laterals: tuple[Literal[4, 8, 16], ...] = (4, 8, 16)
    """Strides of the backbone's maps that are fused into the decoder's: EFASNet's FF."""
    fusion: Literal["add", "concat"] = "add"
    """Add the maps, or concatenate and mix them."""


class Aggregation(Section):
    """EFASNet's FASM after each of the backbone's four maps; see ``networks/aggregation.py``."""

    scales: int = Field(4, ge=2, le=8)
    """Groups of channels, each with a larger receptive field than the one before."""
    ratio: int = Field(1, ge=1)
    """Ratio of the map's channels to the block's."""
    select: bool = True
    """Weigh the scales against each other."""


class Network(Section):
    """The pose network; see ``networks/cam_network.py``."""

    backbone: str = "efficientnet_lite0"
    """Name of the backbone, one of ``BACKBONES``."""
    pretrained: bool | Path = True
    """Start from the published ImageNet weights, from an installed package (true) or a file (its path)."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] = (128, 96, 64, 48)
    """Decoder channels from stride 32 downwards; with a context encoder, from its ``asking`` stride."""
    decode: Decoding = Decoding()
    aggregate: Aggregation | None = None
    context: Context | None = None
    prototypes: Prototyping | None = None
    refine: bool = False
    """Predict coarse CAMs at stride 16, supervise them too, and feed them to the rest of the decoder."""
    erase: Fraction = 0.0
    """Add a second CAM head that sees each joint only where its first map is below this part of its range
    (ACoL, which takes 0.7). It learns from the same labels; the model's CAM is the higher of the two. 0: no
    second head."""
    smooth_cells: float = Field(0.0, ge=0, le=16)
    """Standard deviation, in cells, of a Gaussian that smooths the trained network's CAMs; best that of the
    target, ``loss.sigma_cells``. 0: no smoothing."""
    freeze_stages: int = Field(0, ge=0)
    """The backbone's stem and this many of its stages keep their starting weights; 0 freezes nothing."""

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.prototypes and not self.context:
            message = "prototypes are pooled from the context encoder's map: give network.context too"
            raise ValueError(message)
        if self.prototypes and self.context and self.context.width % self.prototypes.heads:
            message = f"context.width {self.context.width} must be a multiple of prototypes.heads"
            raise ValueError(message)
        first = self.context.asking if self.context else 32
        most = first.bit_length() - 2  # down to stride 4
        if not 1 <= len(self.widths) <= most:
            message = (
                f"widths takes 1 to {most} channel counts (strides {first} to 4), got {len(self.widths)}"
            )
            raise ValueError(message)
        if self.refine and (self.context or len(self.widths) < 2):
            message = "refine works at stride 16 of a decoder from stride 32: two widths or more, no context"
            raise ValueError(message)
        return self
