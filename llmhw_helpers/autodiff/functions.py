"""What networks are made of beyond plain arithmetic."""

import numpy as np

from .tensor import Tensor, operation, record

exp = operation("exp", np.exp, lambda out, x: lambda g: g * out)
log = operation("log", np.log, lambda out, x: lambda g: g / x)
tanh = operation("tanh", np.tanh, lambda out, x: lambda g: g * (1 - out * out))
relu = operation("relu", lambda x: np.maximum(x, 0), lambda out, x: lambda g: g * (out > 0))


def gelu(x: Tensor) -> Tensor:
    """`x` times about the chance that a normal number is below it, in GPT-2's form (arXiv:1606.08415)."""
    return x * 0.5 * (1 + tanh((x + x * x * x * 0.044715) * (2 / np.pi) ** 0.5))


def softmax(x: Tensor) -> Tensor:
    """Along the last axis, ``exp(x) / sum(exp(x))``; subtracting the largest first prevents overflow, no more."""
    p = np.exp(x.data - x.data.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return record("softmax", p, (x, lambda g: p * (g - (g * p).sum(-1, keepdims=True))))


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Each row to mean 0 and variance 1 (last axis), times `gain`, plus `shift` (arXiv:1607.06450)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / ((centred * centred).mean(-1, keepdims=True) + eps) ** 0.5 * gain + shift


def cross_entropy(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Mean over all rows of ``-log softmax(logits)[label]``: logits (..., classes), integer labels (...)."""
    index = _row_index(labels, logits.shape[-1])[..., None]
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"the shapes do not fit: logits {logits.shape}, labels {labels.shape}")
    x = logits.data - logits.data.max(-1, keepdims=True)
    p = np.exp(x)
    total = p.sum(-1, keepdims=True)
    loss = (np.log(total) - np.take_along_axis(x, index, -1)).mean()
    p /= total

    def pull(g):  # what was predicted, less what is: 1 for the label, 0 elsewhere
        slope = p.copy()
        np.put_along_axis(slope, index, np.take_along_axis(p, index, -1) - 1, -1)
        return slope * (g / labels.size)

    return record("cross_entropy", loss, (logits, pull))


def embedding(table: Tensor, ids: np.ndarray) -> Tensor:
    """Rows of `table` (rows, width) for integer `ids` (...): (..., width)."""
    return table[_row_index(ids, len(table.data))]


def _row_index(ids: np.ndarray, n: int) -> np.ndarray:
    if ids.dtype.kind not in "iu" or (ids.size and not 0 <= ids.min() <= ids.max() < n):
        raise IndexError(f"integers from 0 to {n - 1} are asked for, not {ids.dtype} {ids.ravel()[:4]} ...")
    return ids
