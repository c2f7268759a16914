"""The order in which the compiled step reads int4: tiles of rows, a word of 32 bits for eight neighbours of one row."""

import torch
from jaxtyping import Int16, Int32
from torch import Tensor

from ...llm.quantization import Quantized

Tiled = Int16[Tensor, "n_tiles n_groups lanes"]


def int4_tiles(quantized: Quantized, lanes: int) -> tuple[Int32[Tensor, "n_tiles words lanes"], Tiled, Tiled | None]:
    """Codes, eight in a word, scales and minima of int4: of all rows the first columns, then the next ones, and so on.

    Row ``lanes * t + r`` is lane ``r`` of tile ``t``. Of eight neighbours the first four are the lower halves of a
    word's bytes, beginning with the lowest, and the others the upper halves; codes are from 0 to 15. Scales and minima
    are the bits of fp16 numbers. A last tile that is not full has zeros for the rows that are missing.

    >>> from ...llm.quantization import Scheme, quantize
    >>> words, scales, _ = int4_tiles(quantize(torch.tensor([[1.0, -7, 3, 0, 2, 7, -1, 4]]), Scheme(4)), lanes=2)
    >>> [f"{word & 0xFFFFFFFF:08x}" for word in words[0, 0].tolist()], scales.view(torch.float16).tolist()
    (['c87bf1a9', '00000000'], [[[7.0, 0.0]]])
    """
    codes = quantized.codes.int() + (8 if quantized.scheme.kind == "absmax" else 0)
    low, high = codes.unflatten(1, (-1, 2, 4)).unbind(2)
    words = sum((low[..., i] | high[..., i] << 4) << 8 * i for i in range(4))
    minima = None if quantized.minima is None else _tiled(_bits(quantized.minima), lanes)
    return _tiled(words, lanes), _tiled(_bits(quantized.scales), lanes), minima


def _bits(numbers: Tensor) -> Tensor:
    return numbers.half().view(torch.int16)


def _tiled(rows: Tensor, lanes: int) -> Tensor:
    missing = -len(rows) % lanes
    full = torch.cat((rows, rows.new_zeros(missing, rows.shape[1])))
    return full.view(-1, lanes, rows.shape[1]).transpose(1, 2).contiguous()
