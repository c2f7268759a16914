"""Which model is it? A fingerprint of all that its keys and values depend on."""

from hashlib import blake2b

import torch
from torch import Tensor

from .decoding import ServedModel

PIECE = 2048  # bytes whose sum counts as one number


def fingerprint(served: ServedModel) -> str:
    """32 hex digits: of the architecture, of every weight, and of how the weights are multiplied.

    Of each 2 KiB of weights, taken as whole numbers of 64 bits, the sum counts: to read them once at the speed of the
    memory, as one step of decoding does, is enough. So no single weight can change unnoticed, as it can where samples
    are taken: a merged adapter, another quantization, a few rows of a table. (Two changes within 2 KiB that cancel
    each other to the bit would.) Not covered is the rounding of the machine: packed weights, or another number of
    threads, count as the same model, though last bits differ.

    Raises:
        AttributeError: a model that does not give out its `tensors`.
    """
    digest = blake2b(digest_size=16)
    held = [(type(each).__name__, *(x for x in each if isinstance(x, int))) for each in getattr(served, "matrices", ())]
    digest.update(f"{served.spec} {served.dtype} {held}".encode())
    for name, tensor in served.tensors():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_sums(tensor))
    return digest.hexdigest()


def _sums(tensor: Tensor) -> bytes:
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    n = raw.numel() // PIECE * PIECE
    pieces = raw[:n].clone() if raw.storage_offset() % 8 else raw[:n]  # 64 bits have to lie on an edge
    sums = pieces.view(torch.int64).view(-1, PIECE // 8).sum(1)
    return sums.cpu().numpy().tobytes() + raw[n:].cpu().numpy().tobytes()
