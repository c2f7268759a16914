"""A KV cache of small whole numbers: codes of 8 or 4 bits, and an fp16 scale for each head of each token.

With PyTorch it saves memory, not time: attention widens the codes of a layer before it uses them. The compiled step
(``compiled.attention``) widens a head's on their way into the product: it reads fewer bytes.
"""

import torch
from jaxtyping import Float, Float16, Int8, UInt8
from torch import Tensor

from ..llm.quantization import CannotQuantize, Scheme, from_codes, ranges, to_codes
from ..llm.transformer import causal_attention
from ..specs.architectures import Model
from .huge_pages import zeros
from .kv_cache import KVCache, Slots


class QuantizedCache(KVCache):
    """A `KVCache` whose every row, the ``head_dim`` numbers of a head of a token, is kept as codes that share a scale.

    ``x ~ scale * code / top``: the scale is the row's largest magnitude, and ``top`` is 127 or 7, as in
    ``llm.quantization.quantize(rows, Scheme(bits, "row"))``. Bytes:
    ``2 * n_layers * batch * n_kv_heads * capacity * (head_dim * bits / 8 + 2)``.

    A token sees the rounded keys and values of its own pass, too, as all later tokens will: so what it sees does not
    depend on the pieces in which a text is read. (The last bits of a sum do, and where they decide which way a number
    is rounded, later layers differ by more than without rounding.) Scales along the tokens, one for each of the
    ``head_dim`` columns, suit keys better at few bits, but need several tokens at once: KIVI, arXiv:2402.02750.

    Args:
        spec, batch_size, capacity, dtype, device: as of a `KVCache`; `dtype` is what attention computes in.
        bits: 8, or 4 with two codes a byte.

    Attributes:
        pools: codes of keys and of values as they lie ``[n_layers, batch, capacity, n_kv_heads, head_dim * bits / 8]``.
        scale_pools: likewise ``[n_layers, batch, capacity, n_kv_heads, 1]``.
        codes: view of them ``[n_layers, 2, batch, n_kv_heads, capacity, head_dim * bits / 8]``, keys before values.
        scales: likewise ``[n_layers, 2, batch, n_kv_heads, capacity, 1]``.

    Raises:
        CannotQuantize: other bits, or 4 for heads of an odd size.
        ValueError: as `KVCache`.
    """

    def __init__(
        self,
        spec: Model,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        bits: int = 8,
    ):
        if bits not in (4, 8):
            raise CannotQuantize(f"a cache of {bits} bits: there are 8, and 4 with two codes a byte")
        if bits == 4 and spec.head_dim % 2:
            raise CannotQuantize(f"heads of {spec.head_dim} numbers do not fill bytes with two codes each: take 8 bits")
        self.bits = bits
        super().__init__(spec, batch_size, capacity, dtype, device, by_token=True)

    def _set_aside(self) -> None:
        shape = (2, self.spec.n_layers, self.batch_size, self.capacity, self.spec.n_kv_heads)
        kind, width = (torch.int8, self.spec.head_dim) if self.bits == 8 else (torch.uint8, self.spec.head_dim // 2)
        codes, scales = zeros((*shape, width), kind, self.device), zeros((*shape, 1), torch.float16, self.device)
        self.pools, self.scale_pools = tuple(codes), tuple(scales)
        self.codes, self.scales = (each.transpose(0, 1).transpose(3, 4) for each in (codes, scales))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """As `KVCache.tensors`."""
        return self.codes, self.scales

    @property
    def nbytes(self) -> int:
        """Bytes set aside, used or not."""
        return self.codes.nbytes + self.scales.nbytes

    def window(self, n_new: int) -> "QuantizedWindow":
        """As `KVCache.window`."""
        return QuantizedWindow(self, n_new)


class QuantizedWindow(Slots):
    """The slots of one pass, and attention over them and all before, one layer at a time in wide numbers."""

    def __init__(self, cache: QuantizedCache, n_new: int):
        super().__init__(cache, n_new)
        self._bits, self._dtype = cache.bits, cache.dtype
        self._codes, self._new_codes = self._views(cache.codes)
        self._scales, self._new_scales = self._views(cache.scales)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "batch n_heads n_new head_dim"],
        k: Float[Tensor, "batch n_kv_heads n_new head_dim"],
        v: Float[Tensor, "batch n_kv_heads n_new head_dim"],
    ) -> Float[Tensor, "batch n_heads n_new head_dim"]:
        """Quantise the new keys and values into their slots; each query mixes the rounded values of its text so far.

        Raises:
            CannotQuantize: a key or value that fp16 cannot hold as a scale.
        """
        codes, scales = self._codes[layer], self._scales[layer]
        try:
            new_codes, new_scales = to_cache(torch.stack((k, v)).detach(), self._bits)
        except CannotQuantize:
            largest = max(k.abs().max(), v.abs().max()).item()
            raise CannotQuantize(
                f"keys or values up to {largest:.3g} in layer {layer}: their scales do not fit fp16, which ends at "
                "65504; take a KVCache"
            ) from None
        if self._start is None:
            slots = self.positions[:, None, :, None]
            codes.scatter_(-2, slots.expand_as(new_codes), new_codes)
            scales.scatter_(-2, slots.expand_as(new_scales), new_scales)
        else:
            self._new_codes[layer].copy_(new_codes)
            self._new_scales[layer].copy_(new_scales)
        keys, values = from_cache(codes, scales, self._bits).to(self._dtype)
        if self._start == 0:
            return causal_attention(q, keys, values)
        return self._mix(q, keys, values)


def to_cache(
    rows: Float[Tensor, "*rows head_dim"], bits: int
) -> tuple[Int8[Tensor, "*rows width"] | UInt8[Tensor, "*rows width"], Float16[Tensor, "*rows 1"]]:
    """Codes and scale of each row. Four bits: code + 8, the first half of a row in the lower halves of its bytes.

    Raises:
        CannotQuantize: fp16 cannot hold a scale.

    >>> codes, scales = to_cache(torch.tensor([[1.0, -7.0, 2.6, 0.2]]), 4)
    >>> [f"{byte:02x}" for byte in codes[0].tolist()], scales.tolist()
    (['b9', '81'], [[7.0]])
    """
    scheme, rows = Scheme(bits, "row"), rows.float()
    scales, _ = ranges(rows, scheme)
    codes = to_codes(rows, scales, None, scheme)
    if bits == 4:
        first, second = (codes + 8).view(torch.uint8).chunk(2, dim=-1)
        codes = first | second << 4
    return codes, scales.half()


def from_cache(
    codes: Int8[Tensor, "*rows width"] | UInt8[Tensor, "*rows width"], scales: Float16[Tensor, "*rows 1"], bits: int
) -> Float[Tensor, "*rows head_dim"]:
    """The rows that codes and scales of `to_cache` stand for, in fp32."""
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1).view(torch.int8) - 8
    return from_codes(codes, scales.float(), None, Scheme(bits, "row"))
