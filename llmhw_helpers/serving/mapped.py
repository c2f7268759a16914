"""A GGUF file served at its own size: mapped, and its blocks multiplied where they lie, exactly as the file says.

Nothing is dequantised beforehand, so a model is there at once, and takes as much memory as its file; what is read of it
is the system's page cache, which other processes share.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..llm.checkpoints import open_model
from ..llm.gguf_file import StoredTensor, stored_tensors
from .compiled.decoder import NoDecoder
from .compiled.workers import workers
from .weights import FEW_ROWS, Served

PIECE = 2**20  # weights that are widened at a time for many rows, 4 MB: they stay in the processor's caches


class StoredTable(nn.Embedding):
    """A table of tokens that stays in its file; its `weight` has the shape alone, and is NaN to whoever uses it."""

    def __init__(self, stored: StoredTensor, shape: torch.Size):
        super().__init__(*shape, _weight=torch.full((1, 1), torch.nan).expand(shape))
        self.stored = stored

    def forward(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens d_model"]:
        """Rows of the table; IndexError for what is none."""
        from .compiled import held, products

        if tokens.numel() and not (tokens.min() >= 0 and tokens.max() < self.num_embeddings):
            raise IndexError("a token that has no row")
        rows = np.empty((tokens.numel(), self.embedding_dim), np.float32)
        table = np.array(held.in_file(self, "token_embd", held.Kept()), np.int64)
        products.widen_rows(0, 1, table, np.ascontiguousarray(tokens.flatten(), np.int64), rows)
        return torch.from_numpy(rows).view(*tokens.shape, -1)


class StoredMatrix(NamedTuple):
    """A matrix of a file.

    Attributes:
        row: what it is, as ``compiled.products`` has it.
        kept: what `row` points to, the matrix and its bias if it has one.
        n_woven: heads whose pairs of numbers lie side by side, as a file has queries and keys; 0 for other matrices.
    """

    row: np.ndarray
    kept: list
    n_woven: int

    @property
    def nbytes(self) -> int:
        """Bytes that it has in the file."""
        return self.kept[0].nbytes

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``; for many rows, pieces of the matrix are widened to fp32 and multiplied with PyTorch."""
        from .compiled import products

        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y = self._few(rows, products) if len(rows) <= FEW_ROWS else self._many(rows, products)
        if self.n_woven:
            y = y.unflatten(1, (self.n_woven, -1, 2)).transpose(2, 3).flatten(1)
        return y.view(*x.shape[:-1], -1)

    def _few(self, rows: Tensor, products) -> Tensor:
        from .compiled.room import Own

        n, y = torch.get_num_threads(), torch.empty(len(rows), int(self.row[products.N_OUT]))
        own, x, out = Own.of(n, *rows.shape), rows.numpy(), y.numpy()
        workers().run(lambda me, n: products.multiply_rows(me, n, self.row, x, own, out), n)
        return y

    def _many(self, rows: Tensor, products) -> Tensor:
        n_out, n_in = (int(self.row[each]) for each in (products.N_OUT, products.N_IN))
        step = max(1, PIECE // n_in)
        room, y = torch.empty(min(step, n_out), n_in), torch.empty(len(rows), n_out)
        for first in range(0, n_out, step):
            piece = room[: n_out - first]
            out, numbers = piece.numpy(), np.arange(first, first + len(piece))
            workers().run(
                lambda me, n, numbers=numbers, out=out: products.widen_rows(me, n, self.row, numbers, out),
                torch.get_num_threads(),
            )
            y[:, first : first + len(piece)] = F.linear(rows, piece)
        bias = self.kept[1] if len(self.kept) > 1 else None
        return y if bias is None else y + bias


class Beside(NamedTuple):
    """Matrices that are multiplied by the same rows."""

    parts: Sequence[StoredMatrix]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(part.nbytes for part in self.parts)

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """Their products, one after the other."""
        return torch.cat([part.multiply(x) for part in self.parts], -1)


class ServedFile(Served):
    """A GGUF file ready for serving: in the place of a `Served`, with a compiled step, in fp32 on a CPU.

    Its matrices are in Q4_1, Q8_0, F32, F16 or BF16, and nothing of them is copied. The file must stay as it is.

    Args:
        path: of the file; without, the one that ``llm.checkpoints.find_model`` finds.

    Raises:
        ModelNotFound, BadModelFile, NotThisFamily: as ``llm.checkpoints.load_model``.
        NoDecoder: a folder, not a file; a matrix in another format; or no numba.
    """

    def __init__(self, path: Path | None = None):
        checkpoint, model = open_model(path)
        if checkpoint.path.is_dir():
            raise NoDecoder(f"{checkpoint.path} is a folder: only a GGUF file is served as it lies")
        try:
            from .compiled import held, jitting
            from .compiled.multipliers import to_multiply
        except ImportError as error:
            raise NoDecoder(f"it needs numba, and has none here ({error}): pip install 'numba>=0.66'") from None
        self._stored = stored_tensors(checkpoint.path)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.RMSNorm):
                layer.weight = _frozen(checkpoint.tensor(f"{name}.weight"))
            elif isinstance(layer, nn.Linear):
                layer.stored = self._stored[f"{name}.weight"]
                if layer.bias is not None:  # in the order of the matrix
                    layer.bias = _frozen(torch.from_numpy(np.array(self._stored[f"{name}.bias"].data, np.float32)))
        model.token_embd = StoredTable(self._stored["token_embd.weight"], model.token_embd.weight.shape)
        n_woven = {id(block.attn_q): model.spec.n_heads for block in model.blk}
        n_woven |= {id(block.attn_k): model.spec.n_kv_heads for block in model.blk}

        def hold(layers: Sequence[nn.Module]) -> Beside:
            parts = []
            for layer in layers:
                kept = held.Kept()
                row = np.array(held.in_file(layer, f"a matrix of {tuple(layer.weight.shape)}", kept), np.int64)
                parts.append(StoredMatrix(to_multiply(row), kept, n_woven.get(id(layer), 0)))
            return Beside(parts)

        try:
            super().__init__(model, hold=hold, compiled=True)
        except held.NotCompiled as error:
            raise NoDecoder(f"{checkpoint.path}: {error}") from None
        jitting.KEPT.first(self._compile)

    @torch.inference_mode()
    def _compile(self) -> None:
        """Call once all that prompts need."""
        x = self.model.token_embd(torch.zeros(FEW_ROWS + 1, dtype=torch.int64))
        self._layers[0].qkv.multiply(x)
        self.head(x[:1])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as they lie in the file."""
        return sum(each.data.nbytes for each in self._stored.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors by name, in the file's own bytes, and what turns positions into angles."""
        for name, each in self._stored.items():
            yield name, torch.from_numpy(np.array(each.data))
        yield "frequencies", self.model.frequencies


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
