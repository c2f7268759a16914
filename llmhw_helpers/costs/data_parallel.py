"""Data parallelism: what each rank sends in a step, and how much of that the backward pass hides."""

from collections.abc import Sequence

from .collectives import Wire, sent_behind


def sent_bytes(
    n_bytes: float,
    n_ranks: int,
    zero: int = 0,
    n_micro_batches: int = 1,
    around_bytes: float = 0.0,
    rs_as_ar: bool = False,
) -> float:
    """Bytes that a rank sends in a step, in rings: twice the parameters' at ZeRO 0 to 2, and three times at ZeRO 3.

    Everything is added up (a reduce-scatter) and given to everybody (an all-gather), each ``(n - 1) / n`` of it; at
    ZeRO 0 both at once, an all-reduce, and later of gradients, then of parameters (arXiv:1910.02054, section 7).

    Args:
        n_bytes: of all gradients, which are as many as the parameters.
        n_ranks: data-parallel ranks.
        zero: 0, 1, 2 or 3, as in `training_memory.Layout`.
        n_micro_batches: passes before the optimizer steps. From ZeRO 2 on each of them adds up its gradients, as no
            rank has the room to keep them; at ZeRO 3 each of them gathers the parameters twice.
        around_bytes: of `n_bytes`, those of embedding, head and last norm: at ZeRO 3 gathered once a step, and kept.
        rs_as_ar: a backend such as gloo, that makes each reduce-scatter of an all-reduce.

    Raises:
        ValueError: another stage, no ranks or micro-batches.

    >>> [sent_bytes(100, 4, zero) for zero in range(4)]
    [150.0, 150.0, 150.0, 225.0]
    >>> sent_bytes(100, 4, 3, around_bytes=40), sent_bytes(100, 4, 3, rs_as_ar=True)
    (195.0, 300.0)
    """
    if zero not in range(4):
        raise ValueError(f"ZeRO has the stages 0, 1, 2 and 3, not {zero}")
    if n_ranks < 1 or n_micro_batches < 1 or not 0 <= around_bytes <= n_bytes:
        raise ValueError(f"{n_ranks} ranks, {n_micro_batches} micro-batches, {around_bytes} of {n_bytes} bytes around")
    sums = (n_micro_batches if zero >= 2 else 1) * (2 if rs_as_ar and zero else 1)
    gathered = n_bytes if zero < 3 else around_bytes + 2 * n_micro_batches * (n_bytes - around_bytes)
    return (n_ranks - 1) / n_ranks * (sums * n_bytes + gathered)


def step_seconds(
    forward_s: float, backward_s: float, buckets: Sequence[float], wire: Wire, n_ranks: int, overlap: bool = True
) -> float:
    """How long forward and backward pass take, with the gradients sent in between, or after them.

    Gradients come evenly over the backward pass. A bucket is sent when it is full, and when the one before is through;
    the last one is full only at the end, so that at least its own time comes on top.

    Args:
        forward_s, backward_s: of computing alone.
        buckets: bytes of each, in the order in which they are filled.
        wire: between neighbours of the ring.
        n_ranks: data-parallel ranks.
        overlap: whether the backward pass goes on while buckets are sent.

    >>> slow = Wire(0.0, 100e6)
    >>> [round(step_seconds(1, 2, [25e6] * 8, slow, 2, overlap), 2) for overlap in (False, True)]
    [5.0, 3.25]
    """
    if min(forward_s, backward_s, *buckets) < 0 or not sum(buckets):
        raise ValueError(f"no times or bytes below zero, and something to send: {forward_s}, {backward_s}, {buckets}")
    if overlap:
        return forward_s + sent_behind(buckets, backward_s, wire, n_ranks)
    return forward_s + backward_s + sent_behind(buckets, 0.0, wire, n_ranks)
