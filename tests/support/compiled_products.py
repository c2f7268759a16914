"""Products as the compiled step makes them, for tests of what they are multiplied by."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmhw_helpers.serving.compiled import products, room
from llmhw_helpers.serving.compiled.multipliers import to_multiply


def multiplied(matrix: Sequence[int], x: Tensor, parts: Sequence[int] = ()) -> Tensor:
    """The product of `x` and a matrix as `held` describes it, its rows in parts that begin at these; the last first."""
    matrix, own = to_multiply(np.array(matrix, np.int64)), room.of_worker(room.Own.of(1, *x.shape), 0)
    y, ends = np.full((len(x), matrix[products.N_OUT]), 7, np.float32), [*parts, matrix[products.N_OUT]]
    products.prepare(matrix.reshape(1, -1), x.numpy(), own)
    for begin, end in reversed(list(zip([0, *parts], ends, strict=True))):
        products.product(matrix, x.numpy(), own, y, begin, end)
    return torch.from_numpy(y)
