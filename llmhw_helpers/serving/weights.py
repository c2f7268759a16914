"""A model's weights, made ready for serving: the same layers in fewer and faster steps when there are only a few rows.

The model keeps working as it is: where matrices are put side by side, its own parameters become views of them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..llm.transformer import Block, Transformer
from .huge_pages import HugePages
from .kernels import onednn_product, reordered, reordered_product

FEW_ROWS = 16  # up to here a product on a CPU waits for the weights more than for its arithmetic
VERY_FEW_ROWS = 4  # ... and up to here `thin_product` is faster than oneDNN's, from packed weights or as they lie
MKL = torch.backends.mkl.is_available()
WORTH_COMPILING = 10_000_000  # weights: a step of less takes a millisecond or two, the compiler ten seconds, once


class NotPlain(ValueError):
    """A layer that is no plain matrix, such as one with an adapter."""


def thin_product(
    x: Float[Tensor, "*rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None = None
) -> Float[Tensor, "*rows n_out"]:
    """``x W^T``, as `torch.nn.functional.linear`, but with all cores when there are only a few rows, on a CPU in fp32.

    Intel's MKL, which PyTorch multiplies with on x86, may leave a product with one row to a single core, which cannot
    fetch as fast as all of them together. Written as ``W x^T`` and cut into as many parts as there are threads, the
    same product is a batch of smaller ones, and these are shared out.
    """
    n_in, n_parts = x.shape[-1], torch.get_num_threads()
    n_rows = x.numel() // n_in
    if n_rows > FEW_ROWS or weight.shape[0] % n_parts or not (MKL and _plain(weight)):
        return F.linear(x, weight, bias)
    columns = x.reshape(n_rows, n_in).T
    y = torch.bmm(weight.view(n_parts, -1, n_in), columns.expand(n_parts, n_in, n_rows)).view(-1, n_rows)
    y = y.T.contiguous().view(*x.shape[:-1], -1)  # row by row, as MKL and all that follows want it
    return y if bias is None else y + bias


def pack(weight: Float[Tensor, "n_out n_in"]) -> Tensor | None:
    """A second copy of a matrix, in the order in which oneDNN's products read it; `None` where there is no such thing.

    Any product of matrices on a CPU first brings the weights into blocks that suit its registers. With hundreds of
    rows that is soon forgotten, with eight it costs as much as the product itself: so do it once, and keep the result.
    """
    return reordered(weight, FEW_ROWS)


def product(
    x: Float[Tensor, "*rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Tensor | None, packed: Tensor | None
) -> Float[Tensor, "*rows n_out"]:
    """``x W^T + b`` in the way that is fastest for so many rows; `packed` is what `pack` made of `weight`."""
    if _plain(x) and x.numel() // x.shape[-1] <= VERY_FEW_ROWS:
        return thin_product(x, weight, bias)
    return onednn_product(x, weight, bias) if packed is None else reordered_product(x, packed, bias)


def _plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


class _Norm:
    """`RMSNorm`, on a CPU in four small programs instead of the nine that PyTorch's own takes there.

    ``x / sqrt(mean(x^2) + eps)`` is ``sqrt(d) x`` over the hypotenuse of two lengths, those of ``x`` and of its floor.
    """

    def __init__(self, norm: nn.RMSNorm):
        self.norm, self.weight = norm, norm.weight
        self.root = len(norm.weight) ** 0.5
        self.zero = torch.zeros(1)
        self.floor = torch.full((1,), norm.eps**0.5 * self.root)

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype == torch.float64:
            return self.norm(x)
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).hypot_(self.floor)
        return torch.addcdiv(self.zero, wide, length, value=self.root).mul_(self.weight).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in fewer programs: `cos` and `sin` doubled to ``[..., head_dim]``, the first half of `sin` negative."""
    swapped = x.view(*x.shape[:-1], 2, -1).flip(-2).view(x.shape)
    return torch.addcmul(x * cos, swapped, sin)


@runtime_checkable
class Multiplied(Protocol):
    """A matrix and its bias, held in some way: `nbytes` of memory."""

    nbytes: int

    def multiply(self, x: Tensor) -> Tensor:
        """``x W^T + b``."""


class Matrix(NamedTuple):
    """A matrix as it is, and a packed copy if there is one: multiplied by `product`."""

    weight: Tensor
    bias: Tensor | None
    packed: Tensor | None

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``."""
        return product(x, *self)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, the packed copy included."""
        return sum(each.nbytes for each in self if each is not None)


class Served:
    """A model ready for serving. `model` shares its memory: for a moment its largest matrix is there twice.

    Args:
        model: the model itself, which can still be used, and trained.
        packed: keep a second copy of all matrices, as `pack` makes it: twice the memory, and four to twenty rows take
            about half the time, prompts a little less. It does not follow what is changed in the model later.
        hold: another way to hold the matrices: called with the layers whose rows make up one.
        compiled: decode with one compiled program a step (see ``compiled.decoder``); prompts are PyTorch's, but for
            those of few tokens in an engine (``reading.read``). It is compiled at the first step, once for this
            processor. None: where that pays (see `pays`), except with `packed` or a `hold` of one's own, which are
            PyTorch's ways; where it cannot be, a line says why, once, and PyTorch decodes, too. True: here, or the
            first step raises ``NoDecoder``; with `packed`, too, if prompts are to be read from the second copy, and
            steps from the matrices themselves. False: PyTorch decodes.
        activations: of the compiled step of a quantised model; None lets it multiply by the weights that the small
            numbers stand for, ``"wide"`` or ``"rounded"`` by the small numbers, as ``compiled.held.hold`` has it.

    Attributes:
        model, activations: as above.
        compiled: as above, and False where it does not pay.
        spec: its architecture.

    Raises:
        NotPlain: a layer has an adapter.
        ValueError: `activations` with ``compiled=False``, or another word; or as `pays`.
    """

    def __init__(
        self,
        model: Transformer,
        packed: bool = False,
        hold: Callable[[Sequence[nn.Module]], Multiplied] | None = None,
        compiled: bool | None = None,
        activations: str | None = None,
    ):
        if activations not in (None, "wide", "rounded") or (activations and compiled is False):
            raise ValueError(f"activations={activations!r}: 'wide' or 'rounded', of the compiled step alone, or None")
        for name, layer in model.blk.named_modules():
            if name.count(".") == 1 and not isinstance(layer, nn.Linear | nn.RMSNorm):
                raise NotPlain(f"blk.{name} is a {type(layer).__name__}: merge(model), then remove_lora(model)")
        self.model, self.spec = model, model.spec
        if compiled is None and (packed or (hold and not activations) or not pays(model)):
            compiled = False
        self.compiled, self.activations = compiled, activations
        hold = hold or partial(_side_by_side, packed=packed, pages=HugePages())
        self._layers = [_Layer(block, hold) for block in model.blk]
        self._norm = _Norm(model.output_norm)
        self._head = hold([model.token_embd if model.output is None else model.output])

    @property
    def dtype(self) -> torch.dtype:
        """What norms, attention and the cache are in."""
        return self.model.token_embd.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.token_embd.weight.device

    @property
    def matrices(self) -> list[Multiplied]:
        """All that it multiplies by in a pass, as they are held: four a layer, and the head."""
        return [matrix for layer in self._layers for matrix in layer.matrices] + [self._head]

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices as they are held, packed copies included, of its norms and its table of tokens."""
        table, head = self.model.token_embd.weight, self._head
        shared = isinstance(head, Matrix) and head.weight is table
        norms = [self._norm.weight, *(weight for layer in self._layers for weight in layer.norms)]
        held = sum(each.nbytes for each in [*self.matrices, *norms])
        return held if shared else held + table.nbytes

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by name, and what turns positions into angles."""
        yield from self.model.state_dict().items()
        yield "frequencies", self.model.frequencies

    def forward(
        self,
        tokens: Int[Tensor, "batch n_new"],
        positions: Int[Tensor, "batch n_new"],
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "batch n_new d_model"]:
        """The residual stream after the last norm, as ``decoding.ServedModel``'s; raises as that does."""
        x = self.model.embed(tokens)
        cos, sin = (each.unsqueeze(-2) for each in self.model.rotation(x, positions))  # the same for all heads
        rotation = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        for i, layer in enumerate(self._layers):
            x = layer(x, rotation, i, attend)
        return self._norm(x)

    def head(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch vocab_size"]:
        """Logits from the residual stream at one position of each sequence."""
        return self._head.multiply(x)


def pays(model: Transformer) -> bool:
    """Whether to decode with the compiled step when nobody says: on a CPU, from 10 million weights on.

    In fp32, bf16 or fp16, and not with LLMHW_COMPILED=0 in the environment.

    Raises:
        ValueError: LLMHW_COMPILED is neither 0 nor 1.
    """
    wanted, weight = os.environ.get("LLMHW_COMPILED", "1"), model.token_embd.weight
    if wanted not in ("0", "1"):
        raise ValueError(f"LLMHW_COMPILED={wanted}: 0 lets PyTorch decode, 1 is as if it were not set")
    known = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return wanted == "1" and known and sum(each.numel() for each in model.parameters()) >= WORTH_COMPILING


class _Layer:
    """`Block.forward` in four products: queries, keys and values are one, and so are gate and up."""

    def __init__(self, block: Block, hold: Callable[[Sequence[nn.Module]], Multiplied]):
        self.attn_norm, self.ffn_norm = _Norm(block.attn_norm), _Norm(block.ffn_norm)
        self.qkv = hold([block.attn_q, block.attn_k, block.attn_v])
        self.output = hold([block.attn_output])
        self.gate_up = hold([block.ffn_gate, block.ffn_up])
        self.down = hold([block.ffn_down])
        n_q, n_kv = (layer.out_features // block.head_dim for layer in (block.attn_q, block.attn_k))
        self.head_dim, self.heads, self.parts = block.head_dim, [n_q, n_kv], [n_q + n_kv, n_kv]
        self.activation = block.activation

    @property
    def matrices(self) -> list[Multiplied]:
        return [self.qkv, self.output, self.gate_up, self.down]

    @property
    def norms(self) -> list[Tensor]:
        return [self.attn_norm.weight, self.ffn_norm.weight]

    def __call__(self, x: Tensor, rotation: Sequence[Tensor], layer: int, attend: Callable) -> Tensor:
        heads = self.qkv.multiply(self.attn_norm(x)).view(*x.shape[:-1], -1, self.head_dim)
        q_and_k, v = heads.split_with_sizes(self.parts, 2)
        q, k = _rotate(q_and_k, *rotation).split_with_sizes(self.heads, 2)  # queries and keys in one go
        mixed = attend(layer, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + self.output.multiply(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up.multiply(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down.multiply(self.activation(gate).mul_(up))


def _side_by_side(layers: Sequence[nn.Module], packed: bool, pages: HugePages) -> Matrix:
    """One matrix and bias, of which the layers' own become views (the old memory is let go), and the packed matrix."""
    if len(layers) == 1:
        weight, bias = layers[0].weight, getattr(layers[0], "bias", None)  # a table of tokens has none
        pages.move(weight)
    else:
        weight, bias = (_joined([getattr(layer, kind) for layer in layers], pages) for kind in ("weight", "bias"))
    return Matrix(weight, bias, pack(weight) if packed else None)


def _joined(parameters: Sequence[Tensor | None], pages: HugePages) -> Tensor | None:
    if parameters[0] is None:
        return None
    ends = [parameter.data_ptr() + parameter.nbytes for parameter in parameters]
    one = len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == 1
    if one and ends[:-1] == [parameter.data_ptr() for parameter in parameters[1:]]:  # as they were put before
        n_rows = sum(len(parameter) for parameter in parameters)
        return parameters[0].detach().as_strided((n_rows, *parameters[0].shape[1:]), parameters[0].stride())
    joined = pages.joined([parameter.detach() for parameter in parameters])
    for parameter, rows in zip(parameters, joined.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = rows
    return joined
