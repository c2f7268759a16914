"""Products of small integers, in the unit for them and without: exact sums, and what the rounding loses."""

import pytest
import torch

from llmhw_helpers.serving import kernels
from llmhw_helpers.serving.integers import integer_matrix

both_ways = pytest.mark.usefixtures("unit")
EXTREMES = torch.tensor([[127, -127], [-127, 127], [127, 127], [-127, -127]], dtype=torch.int8).repeat(4, 32)


@pytest.fixture(params=["unit", "plain"])
def unit(request, monkeypatch):
    """With the processor's unit, if it has one, and without."""
    kernels.multiplies_integers.cache_clear()
    if request.param == "plain":
        monkeypatch.setattr(kernels, "INTEGER_PRODUCT", None)
    elif not kernels.multiplies_integers():
        pytest.skip("no unit for small integers here")
    yield
    kernels.multiplies_integers.cache_clear()


def numbers(n_rows, generator):
    """Activations whose largest magnitude in each row is 127 or 127 * 256, so that their scale is 1."""
    x = torch.randint(-127, 128, (n_rows, 64), generator=generator).float()
    x[:, 0] = 127
    return x


@both_ways
@pytest.mark.parametrize("n_rows", [1, 2, 7, 33])
@pytest.mark.parametrize("bits", [8, 16])
def test_whole_numbers_are_multiplied_exactly(bits, n_rows):
    generator = torch.Generator().manual_seed(n_rows)
    codes = torch.cat([EXTREMES, torch.randint(-128, 128, (16, 64), generator=generator).to(torch.int8)])
    steps = torch.logspace(-2, 0, 32, base=2)
    x = numbers(n_rows, generator)
    if bits == 16:  # low bytes of all values, both signs of the high one
        x = x * 256 + torch.randint(-128, 128, x.shape, generator=generator) * (x.abs() < 127)
    expected = ((x.double() @ codes.double().T) * steps.double()).float()
    found = integer_matrix(codes, steps, None, bits).multiply(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.05 if bits == 16 else 1e-3)


@both_ways
@pytest.mark.parametrize(("bits", "limit"), [(8, 0.5 / 127), (16, 0.5 / (127 * 256))])
def test_no_activation_is_off_by_more_than_half_a_step(bits, limit):
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 5)[:, None]
    identity = integer_matrix(torch.eye(64, dtype=torch.int8), torch.ones(64), None, bits)
    off = (identity.multiply(x) - x).abs().amax(1) / x.abs().amax(1)
    assert off.max() <= limit * 1.01
    assert off.max() > limit / 2  # and not by much less: so many bits, and no more


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_zeros_gives_the_bias_and_shapes_and_formats_stay(dtype):
    bias = torch.arange(16.0).to(dtype)
    matrix = integer_matrix(torch.ones(16, 64, dtype=torch.int8), torch.ones(16), bias, 8)
    found = matrix.multiply(torch.zeros(2, 3, 64, dtype=dtype))
    assert (found.dtype, found.shape) == (dtype, (2, 3, 16))
    assert torch.equal(found, bias.expand(2, 3, 16))
    assert matrix.nbytes == 16 * 64 + 16 * 4 + bias.nbytes


@both_ways
def test_a_token_does_not_feel_its_neighbours():
    matrix = integer_matrix(EXTREMES, torch.ones(16), None, 8)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    alone = matrix.multiply(x[1:2])
    x[0] *= 1e4
    torch.testing.assert_close(matrix.multiply(x)[1:2], alone, rtol=1e-6, atol=0)
