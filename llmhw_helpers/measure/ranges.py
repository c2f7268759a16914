"""Named parts of a program, which a profiler shows beside the operations; nothing at all where nobody looks."""

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch


def named(name: str) -> AbstractContextManager:
    """Give what a ``with`` block does a name, such as ``"forward"``, in the traces that are being made of it.

    While ``torch.profiler`` records, the block is a range of its trace (``record_function``). In a program that uses
    CUDA it is an NVTX range besides, which Nsight Systems and Nsight Compute show; where they do not watch, NVTX does
    nothing. Otherwise nothing is called.

    >>> with named("forward"):
    ...     torch.ones(2).sum().item()
    2.0
    """
    profiled = torch.autograd.profiler._is_profiler_enabled  # a flag that PyTorch keeps for its own code
    on_gpu = torch.cuda.is_initialized()
    if not (profiled or on_gpu):
        return nullcontext()
    ranges = ExitStack()
    if profiled:
        ranges.enter_context(torch.profiler.record_function(name))
    if on_gpu:
        ranges.enter_context(torch.cuda.nvtx.range(name))
    return ranges
