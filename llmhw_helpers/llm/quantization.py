"""Weights as small whole numbers that share scales: rounded to the nearest, by tensor, by row or by group of a row.

What is stored is counted in full: the numbers, and for each group a scale (and a minimum) in fp16.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from ..specs.blocks import Block, block
from ..specs.dtypes import NF4_LEVELS
from .transformer import Transformer

KINDS = ("absmax", "affine", "nf4")
SCALE_BITS, LARGEST_SCALE = 16, torch.finfo(torch.float16).max


class CannotQuantize(ValueError):
    """Weights that no scheme can hold, or a scheme that does not fit them: the message says which and why."""


@dataclass(frozen=True)
class Scheme:
    """How weights become small numbers.

    Attributes:
        bits: of a number, 2 to 8.
        group: neighbours in a row that share a scale; or ``"row"``, ``"tensor"``.
        kind: ``"absmax"``: the scale is the largest magnitude, and 0 stays 0. ``"affine"``: a minimum and a range.
            ``"nf4"``: the largest magnitude, and the 16 levels of NormalFloat (arXiv:2305.14314).

    Raises:
        CannotQuantize: there is no such scheme.

    >>> Scheme(4, 128).bits_per_weight((576, 1536)), Scheme(4, 32, "affine").name
    (4.125, 'int4 affine, groups of 32')
    """

    bits: int
    group: int | str = "row"
    kind: str = "absmax"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise CannotQuantize(f"no kind {self.kind!r}; there are {', '.join(KINDS)}")
        if not 2 <= self.bits <= 8 or (self.kind == "nf4" and self.bits != 4):
            raise CannotQuantize(f"{self.kind} has no {self.bits} bits: 2 to 8, and NF4 has 4")
        if self.group not in ("row", "tensor") and (isinstance(self.group, str) or self.group < 1):
            raise CannotQuantize(f"a group of {self.group!r}: how many weights, or 'row', or 'tensor'")

    @property
    def name(self) -> str:
        """For people to read."""
        form = {"nf4": "NF4", "affine": f"int{self.bits} affine"}.get(self.kind, f"int{self.bits}")
        return f"{form}, a scale a {self.group}" if isinstance(self.group, str) else f"{form}, groups of {self.group}"

    @property
    def top(self) -> int:
        """The largest number: ``2**(bits - 1) - 1``, on either side of 0, for absmax; else ``2**bits - 1``, from 0."""
        return 2 ** (self.bits - 1 if self.kind == "absmax" else self.bits) - 1

    def n_scales(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the scales of a matrix ``(n_out, n_in)``.

        Raises:
            CannotQuantize: its rows are no whole number of groups.
        """
        if self.group == "tensor":
            return 1, 1
        if self.group == "row":
            return shape[0], 1
        if shape[1] % self.group:
            raise CannotQuantize(f"groups of {self.group} do not divide a row of {shape[1]} weights")
        return shape[0], shape[1] // self.group

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """``bits + 16 * scales / weights``, and as much again for the minima of an affine scheme."""
        rows, columns = self.n_scales(shape)
        shared = SCALE_BITS * (2 if self.kind == "affine" else 1)
        return self.bits + shared * rows * columns / (shape[0] * shape[1])


@dataclass(frozen=True)
class Quantized:
    """A matrix in small numbers.

    Attributes:
        scheme: how it was made.
        codes: ``[n_out, n_in]``: from ``-top`` to ``top`` for absmax, else from 0.
        scales: of each group ``[rows, groups]``, an fp16 number in fp32: the largest magnitude, or the range.
        minima: likewise; None but for an affine scheme.
    """

    scheme: Scheme
    codes: Int8[Tensor, "n_out n_in"] | UInt8[Tensor, "n_out n_in"]
    scales: Float[Tensor, "rows groups"]
    minima: Float[Tensor, "rows groups"] | None

    def dequantize(self) -> Float[Tensor, "n_out n_in"]:
        """The weights that these numbers stand for, in fp32."""
        rows, columns = self.scales.shape
        codes = self.codes.view(rows, columns, -1)
        minima = None if self.minima is None else self.minima[..., None]
        return from_codes(codes, self.scales[..., None], minima, self.scheme).view(self.codes.shape)

    @property
    def n_bits(self) -> int:
        """All that has to be stored, in bits."""
        return round(self.scheme.bits_per_weight(self.codes.shape) * self.codes.numel())


def quantize(weight: Float[Tensor, "n_out n_in"], scheme: Scheme) -> Quantized:
    """Each weight becomes the nearest level of its group.

    A group whose weights are all alike is kept exactly (as far as fp16 holds its scale), zeros included.

    Raises:
        CannotQuantize: no weights, NaN or infinity among them, groups that do not divide the rows, or weights whose
            scale fp16 cannot hold.

    >>> q = quantize(torch.tensor([[1.0, -7.0, 2.6, 0.2]]), Scheme(4, "row"))
    >>> q.codes.tolist(), q.scales.tolist()
    ([[1, -7, 3, 0]], [[7.0]])
    """
    groups = grouped(weight, scheme)
    scales, minima = ranges(groups, scheme)
    codes = to_codes(groups, scales, minima, scheme).view(weight.shape)
    return Quantized(scheme, codes, scales.squeeze(-1), None if minima is None else minima.squeeze(-1))


def grouped(weight: Float[Tensor, "n_out n_in"], scheme: Scheme) -> Float[Tensor, "rows groups n"]:
    """The weights in fp32, by group; raises as `quantize` does."""
    if not weight.numel():
        raise CannotQuantize(f"an empty matrix, {tuple(weight.shape)}: there is nothing to quantise")
    if not all(torch.isfinite(end) for end in weight.detach().aminmax()):  # one look at each weight
        bad = (~torch.isfinite(weight)).nonzero()
        row, column = bad[0].tolist()
        value = weight[row, column].item()
        raise CannotQuantize(f"{len(bad)} weights are no numbers, the first is {value} at row {row}, column {column}")
    return weight.detach().float().reshape(*scheme.n_scales(weight.shape), -1)


def ranges(groups: Float[Tensor, "*rows n"], scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """Scale and (for an affine scheme) minimum of each group ``[*rows, 1]``, rounded to fp16.

    Raises:
        CannotQuantize: fp16 cannot hold one.
    """
    minima = None
    if scheme.kind == "affine":
        low, high = groups.aminmax(dim=-1, keepdim=True)
        minima = low.half().float()
        scales = high - low
    else:
        scales = groups.abs().amax(-1, keepdim=True)
    if scales.max() > LARGEST_SCALE or (minima is not None and minima.isinf().any()):
        raise CannotQuantize(
            f"weights up to {groups.abs().max():.3g}: their scales do not fit fp16, which ends at 65504"
        )
    return scales.half().float(), minima


def to_codes(weights: Tensor, scales: Tensor, minima: Tensor | None, scheme: Scheme) -> Tensor:
    """The nearest level of each weight, given its group's scale and minimum (shapes that broadcast)."""
    relative = (weights if minima is None else weights - minima) / torch.where(scales == 0, torch.inf, scales)
    if scheme.kind == "nf4":
        levels = torch.tensor(NF4_LEVELS, dtype=weights.dtype, device=weights.device)
        return torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
    top = scheme.top
    if scheme.kind == "affine":
        return relative.mul_(top).round_().clamp_(0, top).to(torch.uint8)
    return relative.mul_(top).round_().clamp_(-top, top).to(torch.int8)


def from_codes(codes: Tensor, scales: Tensor, minima: Tensor | None, scheme: Scheme) -> Tensor:
    """``scale * level[code] + minimum``, where the levels go up to 1: so a group's largest weight is its scale."""
    if scheme.kind == "nf4":
        levels = torch.tensor(NF4_LEVELS, dtype=scales.dtype, device=scales.device)
        return levels.index_select(0, codes.flatten().int()).view(codes.shape) * scales
    weights = codes.to(scales.dtype).div_(scheme.top).mul_(scales)
    return weights if minima is None else weights.add_(minima)


def quantize_model(
    model: Transformer,
    scheme: Scheme,
    head: Scheme | None = None,
) -> Transformer:
    """A copy of the model whose matrices hold what is left of them; each keeps its small numbers as ``.quantized``.

    Norms stay as they are. The table of tokens (and the head, where it is another matrix) is quantised, too.

    Args:
        model: as loaded.
        scheme: for the matrices of the blocks.
        head: for the table and the head; as the others without.

    Raises:
        CannotQuantize: as `quantize`; the message names the matrix.
    """
    result = copy.deepcopy(model)
    for name, layer in result.named_modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            chosen = scheme if name.startswith("blk.") else head or scheme
            try:
                hold(layer, quantize(layer.weight, chosen))
            except CannotQuantize as error:
                raise CannotQuantize(f"{name}: {error}") from None
    return result


def hold(layer: nn.Linear | nn.Embedding, quantized: Quantized) -> None:
    """Give the layer the weights that the small numbers stand for, and the numbers."""
    layer.weight.data.copy_(quantized.dequantize())
    layer.quantized = quantized


def model_bits(model: Transformer) -> int:
    """Bits that a quantised model stores: small numbers and scales, and 32 for each weight that is not quantised."""
    layers = [layer for layer in model.modules() if hasattr(layer, "quantized")]
    rest = sum(p.numel() for p in model.parameters()) - sum(layer.weight.numel() for layer in layers)
    return sum(layer.quantized.n_bits for layer in layers) + 32 * rest


def to_blocks(weight: Float[Tensor, "n_out n_in"], name: str) -> UInt8[Tensor, "n_out n_bytes"]:
    """The bytes of ``"Q8_0"`` or ``"Q4_0"``, as a GGUF file has them; llama.cpp, ggml-quants.c, quantize_row_*_ref.

    Q8_0: ``scale = largest magnitude / 127``. Q4_0: 4 bits from -8 to 7, so that the scale is the weight of largest
    magnitude, *with its sign*, divided by -8: one side of a group has a level more than the other.

    Raises:
        CannotQuantize: another format; else as `quantize`.
    """
    layout = _block(name)
    groups = grouped(weight, Scheme(8, layout.n_weights))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = largest.abs() / 127 if name == "Q8_0" else largest / -8
    inverse = torch.where(scales == 0, 0, 1 / scales)  # a product, as there, not a quotient: it rounds otherwise
    scaled = groups * inverse
    if name == "Q8_0":  # halves away from 0, as C's roundf
        numbers = (scaled.abs() + 0.5).floor().mul_(scaled.sign()).to(torch.int8).view(torch.uint8)
    else:
        numbers = (scaled + 8.5).trunc().clamp_(0, 15).to(torch.uint8)
        first, second = numbers.chunk(2, dim=-1)
        numbers = first | second << 4
    stored = scales.half().view(torch.uint8)
    return torch.cat((stored, numbers), dim=-1).view(len(weight), -1)


def from_blocks(data: UInt8[Tensor, "n_out n_bytes"], name: str) -> Float[Tensor, "n_out n_in"]:
    """The weights that the bytes of `to_blocks` stand for, in fp32.

    Raises:
        CannotQuantize: another format, or rows that are no whole number of blocks.
    """
    layout = _block(name)
    if not data.numel() or data.shape[1] % layout.bytes:
        raise CannotQuantize(
            f"a row of {data.shape[1]} bytes is no whole number of {name}'s blocks of {layout.bytes}: truncated, "
            "or not where they begin"
        )
    blocks = data.contiguous().view(len(data), -1, layout.bytes)
    scales = blocks[..., :2].contiguous().view(torch.float16).float()
    numbers = blocks[..., 2:]
    if name == "Q8_0":
        weights = numbers.contiguous().view(torch.int8).float()
    else:
        weights = torch.cat((numbers & 15, numbers >> 4), dim=-1).float() - 8
    return (weights * scales).view(len(data), -1)


def _block(name: str) -> Block:
    if name not in ("Q4_0", "Q8_0"):
        raise CannotQuantize(f"blocks of {name} are not made here; Q4_0 and Q8_0 are")
    return block(name)
