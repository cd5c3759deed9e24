"""Attention over the cells of maps, or over joints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionLayer(nn.Module):
    """Multi-head attention and a feed-forward network, each with a residual connection and then LayerNorm.

    Args:
        width: channels of a token.
        heads: number of heads, among which ``width`` is divided.
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
        """Attend from some tokens to others.

        Args:
            asking: (B, N, width), tokens that attend.
            asked: (B, M, width), tokens that are attended to.
            bias: added to the attention logits; broadcasts to (B, heads, N, M).
            asking_places, asked_places: (N, width) and (M, width) position embeddings, added to queries and
                keys but not to values.

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
    """Sinusoidal embedding of the cells' positions in the crop, consistent across maps of all strides.

    Args:
        shape: the map's height and width.
        stride: crop pixels per cell.
        width: channels of the embedding, a multiple of 4: the first half encodes x, the second y.
        device: device of the result.

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
