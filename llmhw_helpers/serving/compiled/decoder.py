"""Decode with the compiled step: what it needs is checked here, as compiled code checks no bounds."""

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...llm.quantization import CannotQuantize
from ...llm.transformer import TokenError, Transformer
from ...specs.settings import OneLine
from ..paged_cache import PagedCache
from .folder import say
from .workers import workers

ROOM = 256  # tokens, in multiples of which the room for attention's scores grows
MOST_ROOMS = 16  # that are kept


class NoDecoder(OneLine, ValueError):
    """The step cannot be compiled for this model, or here; the message says why."""


@runtime_checkable
class Paged(Protocol):
    """A cache whose keys and values lie in blocks: ``PagedCache``, and ``KVCache`` with one block a text.

    Attributes:
        block_size: tokens in a block.
        pools: keys and values, each ``[n_layers, n_blocks, block_size, n_kv_heads, head_dim]``.

    A ``QuantizedCache`` is one, too: its `pools` hold codes of so many `bits`, and its `scale_pools` their scales.
    """

    block_size: int
    pools: tuple[Tensor, Tensor]


class Decoder:
    """A model's decode step as one compiled program, taken by as many threads as PyTorch has.

    The model's weights are used where they lie. Compiling takes about ten seconds on a processor that has not
    met the step yet, and a second for a format of weights; what comes of it is kept in a `folder.CodeFolder`.

    Args:
        model: in a CPU's memory.
        activations: None for its matrices as they are; ``"wide"`` or ``"rounded"`` for its small numbers, as
            `held.hold` has it.

    Raises:
        NoDecoder: numba is missing, or one that cannot compile it; a model of another kind, or on a GPU.
    """

    def __init__(self, model: Transformer, activations: str | None = None):
        weight = model.token_embd.weight
        if weight.device.type != "cpu":
            raise NoDecoder(f"the model is on {weight.device}, and the compiled step is the CPU's")
        self.spec, self.dtype = model.spec, weight.dtype
        try:
            from . import held, jitting, step
        except ImportError as error:
            raise NoDecoder(f"it needs numba, and has none here ({error}): pip install 'numba>=0.66'") from None
        try:
            self._held = held.hold(model, activations)
        except held.NotCompiled as error:
            raise NoDecoder(str(error)) from None
        except ValueError:  # a word that is none of ours
            raise
        except Exception as error:  # as products are compiled
            raise _cannot(error) from None
        self._scratch, self._share, self._gate = step.Scratch, step.decode_share, step.new_gates
        self._rooms: dict[tuple[int, int, int], object] = {}
        self._taken = threading.Lock()
        cache = PagedCache(self.spec, 1, 1, self.dtype)
        try:  # alone: with others it would let them wait at the gate while it is compiled
            jitting.KEPT.first(lambda: self._step([0], [0], [[0]], cache, n=1))
        except Exception as error:
            raise _cannot(error) from None

    def logits(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        block_tables: Sequence[Sequence[int]],
        cache: Paged,
        n_scored: int | None = None,
    ) -> Float[Tensor, "n_scored vocab_size"]:
        """Read one more token of each text into its slot, and score what may come next; always in fp32.

        Several of one text are read together, too, as rows of their own: all that are missing before the last of them.

        Args:
            tokens: of each text.
            positions: where they stand in their text; all before them are in the cache, or among the rows.
            block_tables: of each text, long enough for the new token.
            cache: in the format of the model.
            n_scored: so many of the first rows are scored; None for all.

        Raises:
            TokenError: a number that is no token.
            ValueError: a table that is too short or names a block that is not there, a cache of another format, or
                more rows to be scored than there are, or none.
            CannotQuantize: a key or value that fp16 cannot hold as the scale of a cache of codes.
        """
        self._check(tokens, positions, block_tables, cache)
        n_scored = len(tokens) if n_scored is None else n_scored
        if not 1 <= n_scored <= len(tokens):
            raise ValueError(f"{n_scored} rows to be scored, of {len(tokens)}")
        logits = self._step(tokens, positions, block_tables, cache, torch.get_num_threads(), n_scored)
        if hasattr(cache, "scale_pools"):
            _check_scales(positions, block_tables, cache)
        return torch.from_numpy(logits)

    def _check(self, tokens, positions, block_tables, cache: Paged) -> None:
        n_blocks, size = cache.pools[0].shape[1], cache.block_size
        want = (self.spec.n_layers, n_blocks, size, self.spec.n_kv_heads, self.spec.head_dim)
        bits = getattr(cache, "bits", None)
        if bits is not None:
            self._check_pools(cache.scale_pools, (*want[:-1], 1), torch.float16)
            want = (*want[:-1], self.spec.head_dim * bits // 8)
        self._check_pools(cache.pools, want, {None: self.dtype, 8: torch.int8, 4: torch.uint8}[bits])
        if not len(tokens) == len(positions) == len(block_tables) > 0:
            counts = f"{len(tokens)} tokens, {len(positions)} positions and {len(block_tables)} block tables"
            raise ValueError(f"{counts}: a step needs one of each for each text, and at least one text")
        for token in tokens:
            if not 0 <= token < self.spec.vocab_size:
                last = self.spec.vocab_size - 1
                raise TokenError(f"token {token} is none of {self.spec.name}'s, which go from 0 to {last}")
        for position, table in zip(positions, block_tables, strict=True):
            if not 0 <= position < len(table) * size:
                raise ValueError(f"position {position} in a table of {len(table) * size} slots")
            if not all(0 <= block < n_blocks for block in table):
                raise ValueError(f"block table {list(table)}: there are blocks 0 to {n_blocks - 1}")

    def _check_pools(self, pools: tuple[Tensor, Tensor], want: tuple[int, ...], dtype: torch.dtype) -> None:
        for pool in pools:
            if pool.shape != want or pool.dtype != dtype or pool.device.type != "cpu" or not pool.is_contiguous():
                found = f"{tuple(pool.shape)} in {pool.dtype} on {pool.device}"
                raise ValueError(f"a cache of {found}: here it is {want} in {dtype} on the CPU, without gaps")

    def _step(self, tokens, positions, block_tables, cache: Paged, n: int, n_scored: int = 1) -> np.ndarray:
        batch_size, n_blocks = len(tokens), max(len(table) for table in block_tables)
        tables = np.zeros((batch_size, n_blocks), np.int32)
        for row, table in zip(tables, block_tables, strict=True):
            row[: len(table)] = table
        logits = np.empty((n_scored, self.spec.vocab_size), np.float32)
        tokens, positions = np.array(tokens, np.int64), np.array(positions, np.int64)
        scales = _bytes(cache.scale_pools) if hasattr(cache, "scale_pools") else _NO_SCALES
        pools = getattr(cache, "bits", 0), *_bytes(cache.pools), *scales
        gate = self._gate(self.spec.n_layers)  # a new one for each step, whatever became of the last
        with self._taken:  # two engines may serve one model
            self._held.kept.follow()
            scratch = self._room(batch_size, n, int(positions.max()) + 1)

            def share(me: int, n: int) -> None:
                where = (tables, cache.block_size, pools)
                self._share(me, n, gate, self._held, scratch, tokens, positions, *where, logits)

            workers().run(share, n)
        return logits

    def _room(self, batch_size: int, n: int, n_tokens: int):
        """Where a step keeps what it computes on the way; made once for each size."""
        sizes = batch_size, n, -(-n_tokens // ROOM) * ROOM
        if sizes not in self._rooms:
            kept = [(size, room) for size, room in self._rooms.items() if size[0] != batch_size]
            self._rooms = dict(kept[1 - MOST_ROOMS :])
            self._rooms[sizes] = self._scratch(self._held, *sizes)
        return self._rooms[sizes]


def new_decoder(model: Transformer, activations: str | None = None) -> Decoder | None:
    """A `Decoder`; None where there can be none, and a line says once that PyTorch decodes instead, and why."""
    try:
        return Decoder(model, activations)
    except NoDecoder as why:
        say(f"decoding step by step with PyTorch: {why}")
        return None


def _check_scales(positions, block_tables, cache) -> None:
    """Compiled code has no errors: what it could not write shows in the scales of the new tokens."""
    size = cache.block_size
    blocks = [table[position // size] for position, table in zip(positions, block_tables, strict=True)]
    slots = [position % size for position in positions]
    for pool in cache.scale_pools:
        endless = pool[:, blocks, slots].isinf().flatten(1).any(1)
        if endless.any():
            raise CannotQuantize(
                f"keys or values in layer {int(endless.int().argmax())}: their scales do not fit fp16, which ends at "
                "65504; take a KVCache"
            )


def _bytes(pools: Sequence[Tensor]) -> list[np.ndarray]:
    """The same memory for numba: bytes, whatever the format, or each would be a step of its own to the compiler."""
    return [pool.view(torch.uint8).numpy() for pool in pools]


_NO_SCALES = _bytes([torch.empty((1, 0, 1, 1, 1), dtype=torch.uint8)] * 2)


def _cannot(error: Exception) -> NoDecoder:
    import numba

    first_line = str(error).strip().split("\n")[0]
    return NoDecoder(f"numba {numba.__version__} cannot compile it here: {type(error).__name__}: {first_line}")
