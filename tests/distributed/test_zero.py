"""Divided training against undivided training, against PyTorch's FSDP2, and against the predicted memory."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import set_checkpoint_early_stop

from llmhw_helpers.costs.memory import FP32
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.training_memory import Layout, rank_phases
from llmhw_helpers.distributed.data_parallel import ModelsDiffer
from llmhw_helpers.distributed.units import storage_bytes
from llmhw_helpers.distributed.zero import Zero
from llmhw_helpers.llm.optimizers import NonFiniteGradient
from llmhw_helpers.llm.training import answer_loss, pack
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model

N = 4  # ranks
SPEC = replace(
    model("SmolLM2-135M"),
    **{"n_layers": 3, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 25, "vocab_size": 51},
)
DIVISIBLE = replace(SPEC, d_ff=24, vocab_size=52)  # every tensor in four equal pieces
STAGES = (1, 2, 3)
EXACT = 1e-9  # in float64: sums in another order, which Adam divides by small numbers
PAIRS = [([1, 2], [3, 4, 5, 6, 7]), ([1], [5]), ([2, 3, 4], [8, 9, 10]), ([4], [1, 2])]
PARTS = [[PAIRS[:1]], [], [PAIRS[1:2], PAIRS[2:3]], [PAIRS[3:]]]  # rank 1 has no labels, rank 2 two micro-batches


def net(seed=0, spec=SPEC):
    torch.manual_seed(seed)
    return Transformer(spec).double()


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=1.0, **options)


def apart(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def trained(stage, recompute):
    """Three steps, with unequal labels and micro-batches: apart from one process, in its parameters and its loss."""
    one = net()
    optimizer = adamw(one.parameters())
    zero = Zero(net(seed=dist.get_rank()), stage, adamw)
    for _ in range(3):
        loss = answer_loss(one, pack(PAIRS))
        loss.backward()
        nn.utils.clip_grad_norm_(one.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        mine = [pack(pairs) for pairs in PARTS[dist.get_rank()]]
        with set_checkpoint_early_stop(False):  # blocks that are computed again are computed to their end
            ours = zero.backward(mine, lambda m, batch: answer_loss(m, batch, recompute))
        zero.step(max_norm=0.5)
    with zero.lent() as whole:
        return apart(whole, one), ours - loss.item()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_as_one_process(four_ranks, stage, recompute):
    for parameters, loss in four_ranks.run(trained, stage, recompute):
        assert parameters == pytest.approx(0, abs=EXACT)
        assert loss == pytest.approx(0, abs=1e-6)  # it is computed in fp32


def beside_fsdp(optimizer, n_steps):
    """Stage 3 and FSDP2 after some steps, each rank with a sequence of its own: apart."""
    zero, theirs = Zero(net(), 3, optimizer), net()
    for block in theirs.blk:
        fully_shard(block)
    fully_shard(theirs)
    their_optimizer = optimizer(theirs.parameters())
    for step in range(n_steps):
        everyones = torch.randint(0, SPEC.vocab_size, (N, 9), generator=torch.Generator().manual_seed(step))
        mine = everyones[dist.get_rank()][None]
        zero.backward([mine])
        zero.step()
        logits = theirs(mine[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), mine.flatten()[1:]).backward()
        their_optimizer.step()
        their_optimizer.zero_grad()
    with zero.lent() as whole:
        pairs = list(zip(whole.parameters(), theirs.parameters(), strict=True))
        moved = max((p - q).abs().max().item() for p, q in zip(whole.parameters(), net().parameters(), strict=True))
        return max((p - q.full_tensor()).abs().max().item() for p, q in pairs), moved


def test_stage_3_goes_where_fsdp2_goes(four_ranks):
    """With steps of the gradients themselves, so that a difference in them is a difference here; and with AdamW."""
    for difference, moved in four_ranks.run(beside_fsdp, sgd, 2, timeout_s=60):
        assert difference < 1e-12 < 1e-2 < moved
    for difference, moved in four_ranks.run(beside_fsdp, adamw, 3, timeout_s=60):
        assert difference < EXACT < 1e-2 < moved


def held(stage):
    """Bytes that a rank holds before and after a step; with AdamW's states of a step before."""
    torch.manual_seed(0)
    zero = Zero(Transformer(DIVISIBLE), stage, adamw)
    batch = torch.randint(0, DIVISIBLE.vocab_size, (1, 9))
    zero.backward([batch])
    zero.step()
    after = zero.held()
    zero.backward([batch])
    return zero.held(), after


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_holds_what_costs_predicts_to_the_byte(four_ranks, stage):
    step = rank_phases(DIVISIBLE, Pass(1, 8, "fp32"), FP32, Layout(dp_size=N, zero=stage))[-1].parts
    predicted = {part: step[part] for part in ("weights", "gradients", "optimizer")}
    for before, after in four_ranks.run(held, stage):
        assert before == predicted
        assert after == predicted | {"gradients": 0}


def at_work():
    """Stage 3: bytes of whole parameters on this rank when a block computes forward, and backward."""
    zero = Zero(net(spec=DIVISIBLE), 3, adamw)
    block = zero.model.blk[1]
    seen = {}

    def look(name):
        rooms = [room for unit in zero.blocks for room in unit.rooms]
        seen[name] = storage_bytes(rooms)

    block.ffn_down.register_forward_hook(lambda *_: look("forward"))
    block.ffn_down.register_full_backward_pre_hook(lambda *_: look("backward"))
    batch = torch.randint(0, DIVISIBLE.vocab_size, (1, 9))
    zero.backward([batch])
    look("after")
    return seen, 8 * sum(math.prod(shape) for shape in zero.blocks[1].shapes)


def test_at_stage_3_one_block_is_there_at_a_time(four_ranks):
    for seen, block_bytes in four_ranks.run(at_work):
        assert seen == {"forward": block_bytes, "backward": block_bytes, "after": 0}


def gradients_while(stage):
    """Units whose gradients were on their way, or added up, when the first block's backward pass began."""
    zero, seen = Zero(net(), stage, adamw), []
    zero.model.blk[0].ffn_down.weight.register_post_accumulate_grad_hook(lambda p: seen.append(zero._n_sent))
    zero.backward([torch.randint(0, SPEC.vocab_size, (1, 9))])
    return seen


def test_gradients_are_added_up_while_the_backward_pass_goes_on(four_ranks):
    assert four_ranks.run(gradients_while, 2) == four_ranks.run(gradients_while, 3) == [[SPEC.n_layers - 1]] * N


class Branches(nn.Module):
    """Three layers, of which a rank uses some."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x, which):
        return sum(self.layers[i](x) for i in which)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.blk = nn.ModuleList([Branches(), Branches()])

    def forward(self, x, which):
        return self.blk[1](self.blk[0](x, which), which)


def branches(stage, first, others):
    """Rank 0 uses the layers `first`, the others `others`: apart from one process, and whether unused layers stayed."""
    zero, one = Zero(Branching(), stage, sgd), Branching()
    start = [p.detach().clone() for p in one.parameters()]
    uses = [first, *[others] * (N - 1)]
    xs = [torch.ones(1, 3) * (1 + rank) for rank in range(N)]
    optimizer = sgd(one.parameters(), weight_decay=0.5)
    zero.optimizer = sgd(zero.pieces, weight_decay=0.5)
    zero.backward([xs[dist.get_rank()]], lambda m, x: m(x, uses[dist.get_rank()]).mean(), count=len)
    zero.step()
    sum(one(x, used).mean() / N for x, used in zip(xs, uses, strict=True)).backward()
    optimizer.step()
    with zero.lent() as whole:
        equal = [torch.equal(p, q) for p, q in zip(whole.parameters(), start, strict=True)]
        return apart(whole, one), equal == [i not in (*first, *others) for i in (0, 0, 1, 1, 2, 2)] * 2


@pytest.mark.parametrize(("first", "others"), [((0,), (1,)), ((0, 1, 2), (1,))])
@pytest.mark.parametrize("stage", STAGES)
def test_a_parameter_without_a_gradient_on_some_ranks_or_on_all(four_ranks, stage, first, others):
    for difference, unused_stayed in four_ranks.run(branches, stage, first, others):
        assert difference < 1e-5
        assert unused_stayed


def refused():
    with pytest.raises(ValueError, match="stages 1, 2 and 3, not 0"):
        Zero(net(), 0, adamw)
    frozen = net()
    frozen.blk[0].attn_q.requires_grad_(False)
    with pytest.raises(ValueError, match=r"blk.0.attn_q.weight is frozen"):
        Zero(frozen, 1, adamw)
    with pytest.raises(ModelsDiffer, match="rank 1's has"):
        Zero(net(spec=SPEC if dist.get_rank() != 1 else DIVISIBLE), 3, adamw)
    with pytest.raises(ValueError, match="no rank has a labelled token"):
        Zero(net(), 2, adamw).backward([])


def test_what_cannot_be_divided_is_refused_on_every_rank(four_ranks):
    four_ranks.run(refused)


def no_number(stage):
    zero = Zero(net(), stage, adamw)
    bad = math.nan if dist.get_rank() == 1 else 1.0
    zero.backward([torch.ones(1, 9, dtype=torch.long)], lambda m, batch: m(batch[:, 1:]).mean() * bad)
    with pytest.raises(NonFiniteGradient, match="length of nan; no step was taken"):
        zero.step(max_norm=1.0)
    with zero.lent() as whole:
        return apart(whole, net())


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_no_number_stops_every_rank(four_ranks, stage):
    assert four_ranks.run(no_number, stage) == [0] * N


def read_while_divided():
    zero = Zero(net(), 3, adamw)
    with pytest.raises(RuntimeError):
        zero.model.token_embd.weight @ torch.ones(SPEC.d_model)
    with pytest.raises(RuntimeError):
        zero.model.blk[0].ffn_up.weight.sum().item() + (zero.model.blk[0].ffn_up.weight @ torch.ones(16))
    with zero.lent() as whole, torch.no_grad():
        logits = whole(torch.tensor([[1, 2, 3]]))
        return torch.equal(logits, net()(torch.tensor([[1, 2, 3]]))), apart(whole, net())


def test_at_stage_3_the_model_is_whole_while_it_is_lent_and_no_other_time(four_ranks):
    assert four_ranks.run(read_while_divided) == [(True, 0)] * N


def test_memory_that_tensors_share_is_counted_once():
    x = torch.zeros(10, 10)
    assert storage_bytes([x, x[1:], x.T, torch.zeros(3), torch.empty(0)]) == 412
