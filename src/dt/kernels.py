"""The loops between the matrix products of an encoder layer, each one pass over memory, compiled by Numba.

Arrays are [rows, columns], contiguous; values are float32, or bfloat16 as uint16. Dropout sets elements to 0 where
`kept` is False, and multiplies the others by `scale`.
"""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, overload

EPSILON = np.float32(1e-5)  # of LayerNorm
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
log = logging.getLogger(__name__)


class Kept(FunctionCache):
    """Numba's cache of compiled code on the disk, of which a fault costs time but ends no job."""

    def load_overload(self, signature, target):
        try:
            return super().load_overload(signature, target)
        except Exception as error:  # readers of broken files raise nearly anything
            return _say(f"cannot be read ({type(error).__name__})")

    def save_overload(self, signature, data):
        try:
            super().save_overload(signature, data)
        except Exception as error:  # of the disk, or of an index that is broken
            _say(f"cannot be written ({type(error).__name__})")


@cache
def _say(problem):
    log.warning(
        "Numba's cache of compiled code %s, so jobs compile anew; NUMBA_CACHE_DIR names another folder", problem
    )


def compiled(function):
    """`function`, compiled when it is first called, or read from Numba's cache where that lies in a folder of ours."""
    result = njit(**OPTIONS)(function)
    try:
        result._cache = Kept(function)  # as enable_caching() does
    except RuntimeError:  # neither beside this file nor in the user's own folder
        _say("finds no folder that it may write")
    return result


@compiled
def norm(inputs, weight, bias, outputs, moments):
    """LayerNorm; `moments: [rows, 2]` receives mean and reciprocal deviation."""
    rows, columns = inputs.shape
    for row in range(rows):
        total, square = np.float32(0), np.float32(0)
        for column in range(columns):
            total += inputs[row, column]
        mean = total / np.float32(columns)
        for column in range(columns):
            square += (inputs[row, column] - mean) * (inputs[row, column] - mean)
        reciprocal = np.float32(1) / np.sqrt(square / np.float32(columns) + EPSILON)
        for column in range(columns):
            value = (inputs[row, column] - mean) * reciprocal * weight[column] + bias[column]
            outputs[row, column] = _store(value, outputs)
        moments[row, 0], moments[row, 1] = mean, reciprocal


@compiled
def add_dropped(update, bias, kept, scale, tokens):
    """`tokens += dropout(update + bias)`."""
    for row in range(tokens.shape[0]):
        for column in range(tokens.shape[1]):
            factor = scale if kept[row, column] else np.float32(0)
            tokens[row, column] += (_load(update[row, column]) + bias[column]) * factor


@compiled
def relu(hidden, bias):
    """`hidden = max(hidden + bias, 0)`, in place."""
    for row in range(hidden.shape[0]):
        for column in range(hidden.shape[1]):
            hidden[row, column] = _store(max(_load(hidden[row, column]) + bias[column], np.float32(0)), hidden)


@compiled
def relu_backward(gradient, hidden, bias_gradient):
    """In place: zero where `hidden` is; adds the sum over rows to `bias_gradient`."""
    for row in range(gradient.shape[0]):
        for column in range(gradient.shape[1]):
            value = _load(gradient[row, column]) if hidden[row, column] != 0 else np.float32(0)
            gradient[row, column] = _store(value, gradient)
            bias_gradient[column] += value


@compiled
def drop(inputs, kept, scale, outputs):
    """`outputs = dropout(inputs)`."""
    for row in range(inputs.shape[0]):
        for column in range(inputs.shape[1]):
            factor = scale if kept[row, column] else np.float32(0)
            outputs[row, column] = _store(inputs[row, column] * factor, outputs)


@compiled
def drop_and_sum(inputs, kept, scale, outputs, bias_gradient):
    """`drop` of a gradient; adds the sum over rows to `bias_gradient`."""
    for row in range(inputs.shape[0]):
        for column in range(inputs.shape[1]):
            factor = scale if kept[row, column] else np.float32(0)
            value = inputs[row, column] * factor
            outputs[row, column] = _store(value, outputs)
            bias_gradient[column] += value


@compiled
def softmax_backward(gradient, attention, kept, scale, factor, outputs):
    """Gradient of scores from that of their dropped softmax; times `factor`."""
    columns = gradient.shape[1]
    scratch = np.empty(columns, np.float32)
    for row in range(gradient.shape[0]):
        total = np.float32(0)
        for column in range(columns):
            dropout = scale if kept[row, column] else np.float32(0)
            scratch[column] = _load(gradient[row, column]) * dropout * attention[row, column]
            total += scratch[column]
        for column in range(columns):
            outputs[row, column] = _store(factor * (scratch[column] - total * attention[row, column]), outputs)


@compiled
def norm_backward(gradient, inputs, moments, weight, residual, outputs, weight_gradient, bias_gradient):
    """`outputs = residual +` the gradient of LayerNorm's inputs; adds to the gradients of its weight and bias."""
    columns = inputs.shape[1]
    scratch, normed = np.empty(columns, np.float32), np.empty(columns, np.float32)
    weight_sum, bias_sum = np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    for row in range(inputs.shape[0]):
        mean, reciprocal = moments[row, 0], moments[row, 1]
        first, second = np.float32(0), np.float32(0)
        for column in range(columns):
            value = _load(gradient[row, column])
            normed[column] = (inputs[row, column] - mean) * reciprocal
            weight_sum[column] += value * normed[column]
            bias_sum[column] += value
            scratch[column] = value * weight[column]
            first += scratch[column]
            second += scratch[column] * normed[column]
        first, second = first / np.float32(columns), second / np.float32(columns)
        for column in range(columns):
            outputs[row, column] = residual[row, column] + reciprocal * (
                scratch[column] - first - normed[column] * second
            )
    weight_gradient += weight_sum
    bias_gradient += bias_sum


@compiled
def add_sum(inputs, total):
    """`total +=` the sum over rows."""
    for row in range(inputs.shape[0]):
        for column in range(inputs.shape[1]):
            total[column] += _load(inputs[row, column])


@intrinsic
def _bits(context, value):
    """The bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], context.get_value_type(types.uint32)
    )


@intrinsic
def _from_bits(context, value):
    """The float32 with these bits."""
    return types.float32(types.uint32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], context.get_value_type(types.float32)
    )


def _load(value):
    """A float32 or bfloat16 as float32."""


@overload(_load, inline="always")
def _overload_load(value):
    if value == types.uint16:
        return lambda value: _from_bits(np.uint32(np.uint32(value) << np.uint32(16)))
    return lambda value: value


def _store(value, array):
    """A float32 as the type of `array`, rounded to the nearest, ties to even."""


@overload(_store, inline="always")
def _overload_store(value, array):
    if array.dtype == types.uint16:

        def round_to_bfloat16(value, array):
            bits = _bits(np.float32(value))
            return np.uint16(
                np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )

        return round_to_bfloat16
    return lambda value, array: value
