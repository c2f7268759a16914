"""A GGUF file's own blocks in the compiled step: read as the gguf library reads them, multiplied where they lie."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import numbers, products, room
from llmhw_helpers.serving.compiled.multipliers import to_multiply

KINDS = {"Q8_0": numbers.Q8_0, "Q4_1": numbers.Q4_1}
N_OUT, N_IN = 5, 96


def blocks(name):
    """All codes there are, and scales and minima of both signs; at an odd address, as in a file nothing is aligned."""
    generator = np.random.default_rng(0)
    data = gguf.quantize(generator.standard_normal((N_OUT, N_IN)).astype(np.float32), Type[name])
    n_shared = {"Q8_0": 2, "Q4_1": 4}[name]
    each = data.reshape(N_OUT * N_IN // 32, -1)
    each[:, n_shared:] = generator.integers(0, 256, each[:, n_shared:].shape)
    each[::2, n_shared - 1] ^= 128  # the sign of what is shared last
    shifted = np.zeros(data.nbytes + 1, np.uint8)
    shifted[1:] = data.reshape(-1)
    return shifted[1:].reshape(data.shape), torch.from_numpy(gguf.dequantize(data, Type[name]))


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_read_as_the_library_reads_them(name):
    data, expected = blocks(name)
    out = np.full(N_IN, 7, np.float32)
    for i in range(N_OUT):
        numbers.read(KINDS[name], data.ctypes.data, i * N_IN, out)
        torch.testing.assert_close(torch.from_numpy(out), expected[i], rtol=1e-6, atol=1e-7)
    part = np.full(32, 7, np.float32)
    numbers.read(KINDS[name], data.ctypes.data, 3 * N_IN + 64, part)
    torch.testing.assert_close(torch.from_numpy(part), expected[3, 64:], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("name", KINDS)
def test_products_are_those_of_the_weights(name, batch_size):
    torch.manual_seed(0)
    (data, weights), x = blocks(name), torch.randn(batch_size, N_IN)
    matrix = to_multiply(np.array([KINDS[name], N_OUT, N_IN, 0, data.ctypes.data, 0, 0, 0, 0, 0]))
    own = room.of_worker(room.Own.of(1, batch_size, N_IN), 0)
    y = np.zeros((batch_size, N_OUT), np.float32)
    products.prepare(matrix[None], x.numpy(), own)
    products.product(matrix, x.numpy(), own, y, 0, N_OUT)
    expected = x @ weights.T
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=0, atol=3e-6 * expected.abs().max().item())
