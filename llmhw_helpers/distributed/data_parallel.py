"""Data parallelism: every rank has the whole model and a part of the batch, and they add up their gradients.

The gradient of a mean over a batch is the mean of the gradients of its parts. So ranks that start with the same
parameters, and exchange nothing but gradients, stay equal to one process with the big batch. The gradients travel in
buckets, the last layers' first, while the backward pass goes on (PyTorch's DDP: arXiv:2006.15704).
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from itertools import zip_longest

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable

from ..llm.training import n_labelled, next_token_loss

FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # that gloo adds up


class ModelsDiffer(ValueError):
    """The ranks' models have not the same parameters: the message names the first that differs."""


class GradientOverflow(ValueError):
    """A gradient that is not finite, or is too large for the format that it is sent in."""


class Bucket:
    """Parameters whose gradients are sent together, in the order of the backward pass.

    Attributes:
        parameters: of one format, on one device.
        n_bytes: of their gradients.
        waiting: those without a gradient of this pass.
        flat: what is sent: the gradients one after the other, and behind them a one for each that there is.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], send_as: torch.dtype | None = None):
        self.parameters, self.waiting = list(parameters), set(parameters)
        sizes = [p.numel() for p in parameters]
        self.n_bytes = sum(sizes) * parameters[0].element_size()
        self.flat = parameters[0].detach().new_empty(sum(sizes) + len(sizes), dtype=send_as)
        *self._pieces, self._there = self.flat.split([*sizes, len(sizes)])
        self._work: dist.Work | None = None

    def send(self, group: dist.ProcessGroup | None = None) -> None:
        """Begin to add up the gradients of all ranks; they are divided before, so that the sum is their mean."""
        n_ranks = dist.get_world_size(group)
        for p, piece in zip(self.parameters, self._pieces, strict=True):
            if p.grad is None:
                piece.zero_()
            else:
                torch.div(p.grad.flatten(), n_ranks, out=piece)
        self._there.copy_(torch.tensor([p.grad is not None for p in self.parameters]))
        self._work = dist.all_reduce(self.flat, group=group, async_op=True)

    def wait(self) -> None:
        """Until the means are in `flat`."""
        self._work.wait()
        self.waiting.update(self.parameters)

    def take(self) -> None:
        """The means from `flat` as the parameters' gradients; None where no rank had one."""
        for p, piece, somewhere in zip(self.parameters, self._pieces, self._there.tolist(), strict=True):
            if not somewhere:
                p.grad = None
            elif p.grad is None:
                p.grad = piece.to(p.dtype, copy=True).view_as(p)
            else:
                p.grad.copy_(piece.view_as(p))


class DataParallel:
    """A model whose gradients, after a backward pass, are the means over all ranks.

    The ranks start with the parameters and buffers of rank 0. From then on every backward pass outside of `no_sync`
    sends each gradient once; when it returns, all are there. The forward pass and the model stay as they are: call
    either `model` or this.

    A parameter that has no gradient on some ranks counts as zero there; where no rank has one, it stays None.

    Args:
        model: of the same shape on every rank. Frozen parameters are not sent.
        bucket_bytes: gradients are sent as soon as so many bytes of them are there. What is sent has memory of its own,
            as much as the gradients.
        send_as: a format of `FORMATS` to send them in; their own without. They are divided by the number of ranks
            before, so that their sum is no larger than they are; the smallest ones become zero.
        group: the ranks that share the work; all without.

    Raises:
        ModelsDiffer: on every rank, before anything is changed.
        ValueError: every parameter is frozen, buckets of no bytes, or a format that is none of `FORMATS`.
    """

    def __init__(
        self,
        model: nn.Module,
        bucket_bytes: int = 25 << 20,
        send_as: torch.dtype | None = None,
        group: dist.ProcessGroup | None = None,
    ):
        if send_as not in (None, *FORMATS):
            raise ValueError(f"gradients are sent as one of {', '.join(map(str, FORMATS))}, not as {send_as}")
        self.model, self.send_as, self.group = model, send_as, group
        self.n_ranks = dist.get_world_size(group)
        start_equal(model, group)
        self.buckets = [Bucket(each, send_as) for each in in_buckets(model, bucket_bytes)]
        self._bucket_of = {p: bucket for bucket in self.buckets for p in bucket.parameters}
        self._sends, self._begun, self._n_sent = True, False, 0
        for p in self._bucket_of:
            p.register_post_accumulate_grad_hook(self._ready)

    def __call__(self, *args, **kwargs):
        """The model's forward pass."""
        return self.model(*args, **kwargs)

    @contextmanager
    def no_sync(self):
        """Backward passes inside add to this rank's gradients and send nothing; the next one outside sends the sum."""
        before, self._sends = self._sends, False
        try:
            yield
        finally:
            self._sends = before

    def backward(
        self,
        micro_batches: Sequence[Tensor],
        loss: Callable[[nn.Module, Tensor], Tensor] = next_token_loss,
        count: Callable[[Tensor], int] = n_labelled,
    ) -> float:
        """The gradients of one step, equal to those of one process that has the micro-batches of all ranks.

        Ranks, and micro-batches, may have different numbers of labelled tokens. Then the mean of their means is not
        the mean over all tokens: each mean weighs by its share of the labels. (Ranks are averaged afterwards, so the
        weight of a rank is that share times the number of ranks.)

        Args:
            micro_batches: of this rank, as many as it likes.
            loss: of the model and a batch, the mean over its labelled tokens.
            count: labelled tokens of a batch.

        Returns:
            The mean loss over the labelled tokens of all ranks.

        Raises:
            ValueError: on every rank, where none has a labelled token.
        """
        counted = [(batch, n) for batch in micro_batches if (n := count(batch))]
        n_all = labels_of_all(sum(n for _, n in counted), self._device, self.group)
        total = 0.0
        for i, (batch, n) in enumerate(counted):
            with self.no_sync() if i < len(counted) - 1 else nullcontext():
                mean = loss(self.model, batch)
                (mean * (n * self.n_ranks / n_all)).backward()
            total += n * mean.item()
        if not counted:
            self.finish()  # the others wait for this rank's part of the sum, which is nothing
        return over_ranks(total, self._device, self.group) / n_all

    def finish(self) -> None:
        """Send what was not sent, wait for all, and put the means in place; the end of every backward pass calls it.

        Call it where a rank has nothing to compute while the others have.

        Raises:
            GradientOverflow: on every rank; gradients are as they were before they were sent.
        """
        while self._n_sent < len(self.buckets):
            self._send()
        self._begun, self._n_sent = False, 0
        for bucket in self.buckets:
            bucket.wait()
        if self.send_as and not all(bucket.flat.isfinite().all() for bucket in self.buckets):
            raise GradientOverflow(f"a gradient is not finite, or too large for {self.send_as}: send it as it is")
        for bucket in self.buckets:
            bucket.take()

    def _ready(self, p: nn.Parameter) -> None:
        """A gradient is complete. Buckets go in one order on all ranks, whatever the order of their gradients."""
        if not self._sends:
            return
        if not self._begun:
            self._begun = True
            Variable._execution_engine.queue_callback(self.finish)
        bucket = self._bucket_of[p]
        if p not in bucket.waiting:
            raise RuntimeError("the backward pass before this one was interrupted: start the ranks again")
        bucket.waiting.remove(p)
        while self._n_sent < len(self.buckets) and not self.buckets[self._n_sent].waiting:
            self._send()

    def _send(self) -> None:
        self.buckets[self._n_sent].send(self.group)
        self._n_sent += 1

    @property
    def _device(self) -> torch.device:
        return self.buckets[0].parameters[0].device


def over_ranks(
    x: float,
    device: torch.device,
    group: dist.ProcessGroup | None = None,
    operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
) -> float:
    """The sum (or what `operation` says) of one number of each rank."""
    y = torch.tensor(x, dtype=torch.float64, device=device)
    dist.all_reduce(y, operation, group=group)
    return y.item()


def labels_of_all(n: int, device: torch.device, group: dist.ProcessGroup | None = None) -> float:
    """The labelled tokens of all ranks, of which this one has `n`; `ValueError` on every rank if there are none."""
    if not (n_all := over_ranks(n, device, group)):
        raise ValueError("no rank has a labelled token: there is nothing to take a loss of")
    return n_all


def in_buckets(model: nn.Module, bucket_bytes: int) -> list[list[nn.Parameter]]:
    """The trained parameters from the last to the first, about as the backward pass comes to them, in buckets.

    A bucket has one format, and at least `bucket_bytes` bytes, but for the last one.

    >>> layers = nn.Sequential(nn.Linear(10, 100, bias=False), nn.Linear(100, 10, bias=False))
    >>> [len(bucket) for bucket in in_buckets(layers, 4000)], [len(bucket) for bucket in in_buckets(layers, 4001)]
    ([1, 1], [2])
    """
    if bucket_bytes < 1:
        raise ValueError(f"a bucket holds at least 1 byte, not {bucket_bytes}")
    made: list[list[nn.Parameter]] = []
    room = 0
    for p in reversed([p for p in model.parameters() if p.requires_grad]):
        if room <= 0 or (made[-1][0].dtype, made[-1][0].device) != (p.dtype, p.device):
            made.append([])
            room = bucket_bytes
        made[-1].append(p)
        room -= p.numel() * p.element_size()
    if not made:
        raise ValueError("every parameter is frozen: there is nothing to train")
    return made


def start_equal(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give every rank the parameters and buffers of rank 0.

    Raises:
        ModelsDiffer: on every rank, if names, shapes, formats or what is frozen differ on one of them.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    mine = [f"{name} {list(t.shape)} {t.dtype}{'' if t.requires_grad else ' frozen'}" for name, t in named]
    everyones: list[list[str]] = [[]] * dist.get_world_size(group)
    dist.all_gather_object(everyones, mine, group=group)
    for rank, theirs in enumerate(everyones):
        if theirs != everyones[0]:
            pairs = zip_longest(everyones[0], theirs, fillvalue="nothing")
            first, other = next((a, b) for a, b in pairs if a != b)
            raise ModelsDiffer(
                f"rank 0's model has {first} where rank {rank}'s has {other}: build the same on every rank"
            )
    for _, tensor in named:
        dist.broadcast(tensor.detach(), group=group, group_src=0)
