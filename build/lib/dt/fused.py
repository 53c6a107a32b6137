"""The two halves of an encoder layer with their backward passes written out, for training on a CPU.

They compute what `model.Layer.plain` computes, and the same gradients, in fewer passes over memory than autograd's.
Linear maps and matrix products are PyTorch's, in fp32 or bf16; the rest is fp32, in `dt.kernels` but for the softmax.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dt import kernels
from dt.dropout import Dropout
from dt.heads import causal, merge, split


class Attention(torch.autograd.Function):
    """`tokens[:, wanted] + dropout(attention(norm(tokens)))`: [B, T, W] → [B, T', W].

    `weights` are those of `attention_norm`, `attention_in` and `attention_out`, each with its bias; `products` is the
    type that matrix products are computed in.
    """

    @staticmethod
    def forward(ctx, tokens, wanted, heads, probability, products, *weights):
        norm, norm_bias, w_in, b_in, w_out, b_out = weights
        tokens = tokens.contiguous()
        width, dropout = tokens.shape[2], Dropout(probability)
        w_in, b_in, w_out = w_in.to(products), b_in.to(products), w_out.to(products)
        normed, moments = torch.empty_like(tokens, dtype=products), tokens.new_empty(len(tokens), tokens.shape[1], 2)
        kernels.norm(*_rows(tokens, norm, norm_bias, normed, moments))
        query = split(functional.linear(normed[:, wanted], w_in[:width], b_in[:width]), heads)
        key_value = functional.linear(normed, w_in[width:], b_in[width:])
        key, value = (split(part, heads) for part in key_value.split(width, 2))
        factor = 1 / math.sqrt(query.shape[2])
        scores = torch.baddbmm(causal(tokens.shape[1], products)[wanted], query, key.transpose(1, 2), alpha=factor)
        attention = torch.softmax(scores, 2, dtype=torch.float32)
        dropped, kept = torch.empty_like(attention, dtype=products), dropout.draw(attention.shape)
        kernels.drop(*_rows(attention), kept, dropout.scale, *_rows(dropped))
        mixed = merge(torch.bmm(dropped, value), heads)
        result, kept_out = tokens[:, wanted].clone(memory_format=torch.contiguous_format), dropout.draw(mixed.shape)
        kernels.add_dropped(*_rows(mixed @ w_out.t(), b_out), kept_out, dropout.scale, *_rows(result))
        saved = tokens, norm, w_in, w_out, normed, moments, query, key, value, attention, dropped, mixed
        ctx.save_for_backward(*saved)
        ctx.plan = wanted, heads, factor, dropout, kept, kept_out
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        tokens, norm, w_in, w_out, normed, moments, query, key, value, attention, dropped, mixed = ctx.saved_tensors
        wanted, heads, factor, dropout, kept, kept_out = ctx.plan
        gradient, width, trained = gradient.contiguous(), tokens.shape[2], ctx.needs_input_grad[5]
        update, g_b_out = torch.empty_like(mixed), gradient.new_zeros(width)
        kernels.drop_and_sum(*_rows(gradient), kept_out, dropout.scale, *_rows(update, g_b_out))
        g_mixed = split(update @ w_out, heads)
        g_dropped, g_scores = torch.bmm(g_mixed, value.transpose(1, 2)), torch.empty_like(dropped)
        kernels.softmax_backward(
            *_rows(g_dropped, attention), kept, dropout.scale, np.float32(factor), *_rows(g_scores)
        )
        g_query = merge(torch.bmm(g_scores, key), heads)
        g_key = merge(torch.bmm(g_scores.transpose(1, 2), query), heads)
        g_value = merge(torch.bmm(dropped.transpose(1, 2), g_mixed), heads)
        g_key_value = torch.cat((g_key, g_value), 2)
        g_w_in = g_b_in = None
        if trained:
            g_w_in = torch.cat((_product(g_query, normed[:, wanted]), _product(g_key_value, normed)))
            g_b_in = gradient.new_zeros(3 * width)
            kernels.add_sum(*_rows(g_query, g_b_in[:width]))
            kernels.add_sum(*_rows(g_key_value, g_b_in[width:]))
        g_normed = g_key_value @ w_in[width:]
        g_normed[:, wanted] += g_query @ w_in[:width]
        if gradient.shape == tokens.shape:
            residual = gradient
        else:
            residual = torch.zeros_like(tokens)
            residual[:, wanted] = gradient
        g_tokens, g_norm, g_norm_bias = torch.empty_like(tokens), *gradient.new_zeros(2, width)
        kernels.norm_backward(*_rows(g_normed, tokens, moments, norm, residual, g_tokens, g_norm, g_norm_bias))
        g_weights = (g_norm, g_norm_bias, g_w_in, g_b_in, _product(update, mixed), g_b_out) if trained else (None,) * 6
        return g_tokens, None, None, None, None, *g_weights


class Mlp(torch.autograd.Function):
    """`tokens + dropout(mlp(norm(tokens)))` with ReLU: [B, T, W] → [B, T, W].

    `weights` are those of `mlp_norm`, `mlp_in` and `mlp_out`, each with its bias; `products` as for `Attention`.
    """

    @staticmethod
    def forward(ctx, tokens, probability, products, *weights):
        norm, norm_bias, w_in, b_in, w_out, b_out = weights
        tokens = tokens.contiguous()
        w_in, w_out, dropout = w_in.to(products), w_out.to(products), Dropout(probability)
        normed, moments = torch.empty_like(tokens, dtype=products), tokens.new_empty(len(tokens), tokens.shape[1], 2)
        kernels.norm(*_rows(tokens, norm, norm_bias, normed, moments))
        hidden = normed @ w_in.t()
        kernels.relu(*_rows(hidden, b_in))
        result, kept = tokens.clone(), dropout.draw(tokens.shape)
        kernels.add_dropped(*_rows(hidden @ w_out.t(), b_out), kept, dropout.scale, *_rows(result))
        ctx.save_for_backward(tokens, norm, w_in, w_out, normed, moments, hidden)
        ctx.plan = dropout, kept
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        tokens, norm, w_in, w_out, normed, moments, hidden = ctx.saved_tensors
        dropout, kept = ctx.plan
        gradient, width, trained = gradient.contiguous(), tokens.shape[2], ctx.needs_input_grad[3]
        update, g_b_out = torch.empty_like(normed), gradient.new_zeros(width)
        kernels.drop_and_sum(*_rows(gradient), kept, dropout.scale, *_rows(update, g_b_out))
        g_hidden, g_b_in = update @ w_out, gradient.new_zeros(len(w_in))
        kernels.relu_backward(*_rows(g_hidden, hidden, g_b_in))
        g_tokens, g_norm, g_norm_bias = torch.empty_like(tokens), *gradient.new_zeros(2, width)
        kernels.norm_backward(*_rows(g_hidden @ w_in, tokens, moments, norm, gradient, g_tokens, g_norm, g_norm_bias))
        g_weights: tuple[Tensor | None, ...] = (None,) * 6
        if trained:
            g_weights = g_norm, g_norm_bias, _product(g_hidden, normed), g_b_in, _product(update, hidden), g_b_out
        return g_tokens, None, None, *g_weights


def _product(g_outputs: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of a linear map's weight, fp32."""
    return (g_outputs.flatten(0, 1).t() @ inputs.flatten(0, 1)).float()


def _rows(*tensors: Tensor) -> list[np.ndarray]:
    """The same memory as kernels take it: [rows, columns], or [columns]; bfloat16 as uint16."""
    flat = (tensor.detach().view(-1, tensor.shape[-1]) if tensor.dim() > 2 else tensor.detach() for tensor in tensors)
    return [(each.view(torch.uint16) if each.dtype == torch.bfloat16 else each).numpy() for each in flat]
