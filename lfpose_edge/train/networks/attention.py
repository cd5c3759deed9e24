"""Attention over the cells of maps, or over joints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionLayer(nn.Module):
    """Multi-head attention and a feed-forward network, each followed by the residual's LayerNorm.

    Args:
        width: of a token.
        heads: that ``width`` is divided among.
        hidden: width of the feed-forward network.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width)
        )
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(
        self,
        asking: Tensor,
        asked: Tensor,
        bias: Tensor | None = None,
        *,
        asking_places: Tensor | None = None,
        asked_places: Tensor | None = None,
    ) -> Tensor:
        """Let every token look at others.

        Args:
            asking: (B, N, width), those that look.
            asked: (B, M, width), those that are looked at.
            bias: added to the attention logits; broadcasts to (B, heads, N, M).
            asking_places, asked_places: (N, width) and (M, width), position embeddings, which decide who
                looks where and are no part of what is seen.

        Returns:
            (B, N, width).
        """
        at = asking if asking_places is None else asking + asking_places
        to = asked if asked_places is None else asked + asked_places
        query, key, value = (self._split(t) for t in (self.query(at), self.key(to), self.value(asked)))
        mask = bias if bias is None else bias.to(query.dtype)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        seen = self.out(seen.transpose(1, 2).flatten(2))
        x = self.attention_norm(asking + seen)
        out: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, width) to (B, heads, N, width / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def place_embedding(shape: tuple[int, int], stride: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of where a map's cells are in the crop, so that maps of all strides agree.

    Args:
        shape: the map's height and width.
        stride: crop pixels per cell.
        width: of the embedding, a multiple of 4: half of it tells x, half y.
        device: of the result.

    Returns:
        (h * w, width), row-major.
    """
    waves = torch.exp(torch.arange(width // 4, device=device) * (-math.log(10_000) / (width // 4)))
    axes = []
    for cells in shape:
        angles = (torch.arange(cells, device=device)[:, None] + 0.5) * stride / 8 * waves
        axes.append(torch.cat([angles.sin(), angles.cos()], dim=1))
    down, across = axes
    rows, columns = shape
    both = [across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)]
    return torch.cat(both, dim=2).flatten(0, 1)
