"""Attention in several heads as batched matrix products: what `fused` and `acting` share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def split(tokens: Tensor, heads: int) -> Tensor:
    """[B, T, W] → [B·H, T, W/H]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def merge(parts: Tensor, heads: int) -> Tensor:
    """The inverse of `split`."""
    return parts.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def causal(length: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """[T, T], to add to scores: −∞ where a token would see a later one, else 0."""
    return torch.full((length, length), -math.inf, dtype=dtype, device=device).triu_(1)
