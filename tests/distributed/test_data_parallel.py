"""Data-parallel ranks against one process with the big batch, and against PyTorch's DDP."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llmhw_helpers.distributed.data_parallel import DataParallel, GradientOverflow, ModelsDiffer, in_buckets
from llmhw_helpers.distributed.ranks import run_ranks
from llmhw_helpers.llm.training import answer_loss, next_token_loss, pack
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model

N = 4  # ranks
SPEC = replace(
    model("SmolLM2-135M"),
    **{"n_layers": 3, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 25, "vocab_size": 51},
)
EXACT = 1e-12  # in float64, sums in another order
# answers of 5, 1, 3 and 2 tokens; rank 1 has none, rank 2 has two micro-batches
PAIRS = [([1, 2], [3, 4, 5, 6, 7]), ([1], [5]), ([2, 3, 4], [8, 9, 10]), ([4], [1, 2])]
PARTS = [[PAIRS[:1]], [], [PAIRS[1:2], PAIRS[2:3]], [PAIRS[3:]]]


def net(seed=0):
    torch.manual_seed(seed)
    return Transformer(SPEC).double()


def batch():
    return torch.randint(0, SPEC.vocab_size, (2 * N, 9), generator=torch.Generator().manual_seed(1))


def apart(a, b):
    """The largest difference of two models' gradients; the models have them all."""
    return max((p.grad - q.grad).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def big_batch():
    one = net()
    next_token_loss(one, batch()).backward()
    return one


def gradients(bucket_bytes):
    """Of models that start differently on every rank: ours is apart from the big batch's, and from DDP's."""
    parallel = DataParallel(net(seed=dist.get_rank()), bucket_bytes)
    theirs = DistributedDataParallel(net())
    mine = batch().chunk(N)[dist.get_rank()]
    next_token_loss(parallel.model, mine).backward()
    logits = theirs(mine[:, :-1])
    nn.functional.cross_entropy(logits.flatten(0, 1).float(), mine[:, 1:].flatten()).backward()
    return apart(parallel.model, big_batch()), apart(parallel.model, theirs.module)


@pytest.mark.parametrize("bucket_bytes", [1, 3000, 1 << 30])
def test_gradients_are_those_of_the_big_batch_and_ddps(four_ranks, bucket_bytes):
    for differences in four_ranks.run(gradients, bucket_bytes):
        assert differences == pytest.approx((0, 0), abs=EXACT)


def trained():
    """Three steps of AdamW on four ranks: apart from one process, in all parameters."""
    parallel, one = DataParallel(net(seed=dist.get_rank()), 3000), net()
    for m, micro_batches in (parallel.model, batch().chunk(N)[dist.get_rank()].chunk(2)), (one, [batch()]):
        optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2)
        for _ in range(3):
            if m is one:
                next_token_loss(m, *micro_batches).backward()
            else:
                parallel.backward(micro_batches)
            optimizer.step()
            optimizer.zero_grad()
    return max((p - q).abs().max().item() for p, q in zip(parallel.model.parameters(), one.parameters(), strict=True))


def test_four_ranks_train_as_one_process(four_ranks):
    assert four_ranks.run(trained) == pytest.approx([0] * N, abs=1e-9)  # Adam divides by small numbers


def unequal():
    """The loss, and how far the gradients are from one process's: weighed by labels, and as a mean of means."""
    parallel, means, one = DataParallel(net(), 3000), DataParallel(net(), 3000), net()
    loss = answer_loss(one, pack(PAIRS))
    loss.backward()
    micro_batches = [pack(pairs) for pairs in PARTS[dist.get_rank()]]
    ours = parallel.backward(micro_batches, answer_loss)
    for micro_batch in micro_batches:
        with means.no_sync():
            (answer_loss(means.model, micro_batch) / len(micro_batches)).backward()
    means.finish()
    return ours - loss.item(), apart(parallel.model, one), apart(means.model, one)


def test_unequal_numbers_of_labels_are_weighed_and_a_mean_of_means_is_another_gradient(four_ranks):
    for loss, weighed, mean_of_means in four_ranks.run(unequal):
        assert loss == pytest.approx(0, abs=1e-6)  # it is computed in fp32
        assert weighed == pytest.approx(0, abs=EXACT)
        assert mean_of_means > 1e-3


def unlabelled():
    with pytest.raises(ValueError, match="no rank has a labelled token"):
        DataParallel(net()).backward([], answer_loss)


def test_no_label_on_any_rank_is_one_line_on_all(four_ranks):
    four_ranks.run(unlabelled)


def accumulated():
    """Two micro-batches of which only the second is sent: the gradients between, and at the end."""
    parallel, alone = DataParallel(net(), 3000), net()
    first, second = batch().chunk(N)[dist.get_rank()].chunk(2)
    with parallel.no_sync():
        next_token_loss(parallel.model, first).backward()
    next_token_loss(alone, first).backward()
    between = apart(parallel.model, alone)
    next_token_loss(parallel.model, second).backward()
    for p in parallel.model.parameters():
        p.grad /= 2
    return between, apart(parallel.model, big_batch())


def test_within_no_sync_gradients_stay_the_ranks_own(four_ranks):
    for differences in four_ranks.run(accumulated):
        assert differences == pytest.approx((0, 0), abs=EXACT)


def sent_when_the_first_layer_is_done():
    m, seen = net(), []
    m.token_embd.weight.register_post_accumulate_grad_hook(lambda p: seen.append(parallel._n_sent))  # the last one
    parallel = DataParallel(m, 3000)
    next_token_loss(m, batch().chunk(N)[dist.get_rank()]).backward()
    return seen, len(parallel.buckets)


def test_all_buckets_but_the_last_are_on_their_way_when_the_backward_pass_ends(four_ranks):
    for seen, n_buckets in four_ranks.run(sent_when_the_first_layer_is_done):
        assert n_buckets > 3
        assert seen == [n_buckets - 1]


def compressed(send_as):
    parallel = DataParallel(net(), 3000, send_as)
    next_token_loss(parallel.model, batch().chunk(N)[dist.get_rank()]).backward()
    ours, exact = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (parallel.model, big_batch()))
    return ((ours - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(("send_as", "digits"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_sent_in_half_the_bytes_gradients_lose_digits_and_no_more(four_ranks, send_as, digits):
    for error in four_ranks.run(compressed, send_as):
        assert digits / 10 < error < 2 * digits


def large(gradient):
    """A weight whose gradient on every rank is this number."""
    parallel = DataParallel(nn.Linear(1, 1, bias=False), send_as=torch.float16)
    try:
        parallel(torch.tensor([[gradient]])).sum().backward()
    except GradientOverflow as error:
        return str(error)
    return parallel.model.weight.grad.item()


def test_a_sum_beyond_fp16_is_no_overflow_and_a_gradient_beyond_it_is_refused(four_ranks):
    assert four_ranks.run(large, 40_000.0) == [40_000] * N
    for line in four_ranks.run(large, 1e6):
        assert "too large for torch.float16" in line


class Branches(nn.Module):
    """Which of its layers is used, the rank decides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        return self.layers[1 if dist.get_rank() == 0 else 0](x)


def branches(bucket_bytes):
    ours, theirs = (
        DataParallel(Branches(), bucket_bytes),
        DistributedDataParallel(Branches(), find_unused_parameters=True),
    )
    x = torch.ones(2, 3) * (1 + dist.get_rank())
    for m in (ours, theirs):
        m(x).square().sum().backward()
    nobodys = [p.grad for p in ours.model.layers[2].parameters()]
    used = zip(ours.model.layers[:2].parameters(), theirs.module.layers[:2].parameters(), strict=True)
    return max((p.grad - q.grad).abs().max().item() for p, q in used), nobodys


@pytest.mark.parametrize("bucket_bytes", [1, 1 << 30])
def test_a_gradient_that_some_ranks_lack_is_zero_there_and_none_where_all_lack_it(four_ranks, bucket_bytes):
    for difference, nobodys in four_ranks.run(branches, bucket_bytes):
        assert difference < 1e-5
        assert nobodys == [None, None]


def differ():
    layers = [nn.Linear(3, 3), nn.Linear(3, 3 + (dist.get_rank() == 2))]
    with pytest.raises(
        ModelsDiffer, match=r"rank 0's model has 1.weight \[3, 3\] .* where rank 2's has 1.weight \[4, 3\]"
    ):
        DataParallel(nn.Sequential(*layers))
    frozen = nn.Linear(3, 3).requires_grad_(dist.get_rank() != 3)
    with pytest.raises(ModelsDiffer, match="rank 3's has weight .* frozen"):
        DataParallel(frozen)
    with pytest.raises(ModelsDiffer, match="rank 1's has nothing"):
        DataParallel(nn.Linear(3, 3, bias=dist.get_rank() != 1))


def test_models_that_differ_are_refused_on_every_rank(four_ranks):
    four_ranks.run(differ)


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        raise ArithmeticError("in the middle")


def interrupted():
    parallel = DataParallel(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), 1)
    first, second = parallel.model
    with pytest.raises(ArithmeticError):
        second(Fails.apply(first(torch.ones(3)))).sum().backward()
    with pytest.raises(RuntimeError, match="was interrupted: start the ranks again"):
        parallel(torch.ones(3)).sum().backward()


def test_after_an_interrupted_pass_nothing_is_averaged_in_silence():
    run_ranks(1, interrupted)


def test_buckets_hold_every_trained_parameter_once_and_backwards():
    m = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 2))
    m[1].bias.requires_grad_(False)
    for size in (1, 40, 100, 10**9):
        made = in_buckets(m, size)
        held = [p for bucket in made for p in bucket]
        assert [id(p) for p in held] == [id(p) for p in reversed(list(m.parameters())) if p.requires_grad]
        assert all(
            sum(4 * p.numel() for p in bucket) >= size > sum(4 * p.numel() for p in bucket[:-1]) for bucket in made[:-1]
        )


def test_a_bucket_has_one_format():
    m = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7).bfloat16(), nn.Linear(7, 2))
    assert [len(bucket) for bucket in in_buckets(m, 10**9)] == [2, 2, 2]


def test_nothing_to_train_and_buckets_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1 byte, not 0"):
        in_buckets(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match=r"torch.float16, .*, not as torch.int8"):
        DataParallel(nn.Linear(2, 2), send_as=torch.int8)
    with pytest.raises(ValueError, match="frozen"):
        in_buckets(nn.Linear(2, 2).requires_grad_(False), 1)
