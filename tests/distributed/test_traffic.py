"""What data-parallel ranks send, as the kernel counts it on wires of their own, against the formula."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from llmhw_helpers.costs.data_parallel import sent_bytes
from llmhw_helpers.distributed.data_parallel import DataParallel
from llmhw_helpers.distributed.networks import Network, cannot_shape
from llmhw_helpers.distributed.ranks import Ranks
from llmhw_helpers.distributed.wire import counted
from llmhw_helpers.distributed.zero import Zero

N, WIDTH = 4, 400
BLOCK_BYTES = 4 * WIDTH * (WIDTH + 1)
ALL_BYTES = 4 * BLOCK_BYTES  # three blocks, and as much around them
NEAR = 0.02  # flags, losses, counts, and what gloo says to itself: a kilobyte or two in each collective


@pytest.fixture(scope="module")
def ranks():
    if why := cannot_shape():
        pytest.skip(f"{why}; and the loopback's counter is the whole machine's")
    with Ranks(N, network=Network()) as four:
        yield four


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blk = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for block in self.blk:
            x = block(x)
        return x


def mean(m, x):
    return m(x).mean()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def data_parallel(n_micro_batches, send_as=None):
    parallel, x = DataParallel(Stack(), BLOCK_BYTES, send_as), torch.ones(2, WIDTH)
    with counted() as wire:
        parallel.backward([x] * n_micro_batches, mean, len)
    return wire.sent_payload_bytes


@pytest.mark.parametrize(("n_micro_batches", "send_as", "share"), [(1, None, 1), (3, None, 1), (1, torch.float16, 0.5)])
def test_data_parallel_ranks_send_their_gradients_once(ranks, n_micro_batches, send_as, share):
    predicted = share * sent_bytes(ALL_BYTES, N)
    assert ranks.run(data_parallel, n_micro_batches, send_as) == pytest.approx([predicted] * N, rel=NEAR)


def zero_step(stage, n_micro_batches):
    zero, x = Zero(Stack(), stage, sgd), torch.ones(2, WIDTH)
    with counted() as wire:
        zero.backward([x] * n_micro_batches, mean, len)
        zero.step(max_norm=1.0)
    return wire.sent_payload_bytes


@pytest.mark.parametrize("n_micro_batches", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_sends_what_the_formula_says(ranks, stage, n_micro_batches):
    predicted = sent_bytes(ALL_BYTES, N, stage, n_micro_batches, around_bytes=BLOCK_BYTES)
    assert ranks.run(zero_step, stage, n_micro_batches) == pytest.approx([predicted] * N, rel=NEAR)


def fsdp_step():
    m = Stack()
    for block in m.blk:
        fully_shard(block)
    fully_shard(m)
    with counted() as wire:
        mean(m, torch.ones(2, WIDTH) * dist.get_rank()).backward()
    return wire.sent_payload_bytes


def test_fsdp2_on_gloo_sends_an_all_reduce_for_every_reduce_scatter(ranks):
    predicted = sent_bytes(ALL_BYTES, N, 3, around_bytes=BLOCK_BYTES, rs_as_ar=True)
    assert ranks.run(fsdp_step, timeout_s=60) == pytest.approx([predicted] * N, rel=NEAR)
