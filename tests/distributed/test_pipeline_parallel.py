"""Pipeline parallel: stages one after the other are the whole model; on ranks, its gradients and PyTorch's."""

from datetime import timedelta
from itertools import accumulate, pairwise

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage

from llmhw_helpers.costs.activations import blocks_kept
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.parallelism import Indivisible, part
from llmhw_helpers.costs.pipelines import sent_bytes
from llmhw_helpers.costs.schedules import Work, gpipe, make_schedule, needs, one_f_one_b
from llmhw_helpers.distributed.networks import Network, cannot_shape
from llmhw_helpers.distributed.pipeline_parallel import IGNORED, Pipeline, Stage
from llmhw_helpers.distributed.ranks import run_ranks
from llmhw_helpers.distributed.wire import counted
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.memory import Kept
from llmhw_helpers.specs.architectures import Model


def small(tied=True, n_layers=8):
    sizes = {"n_layers": n_layers, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 64}
    return Model(
        "small", **sizes, vocab_size=96, tied_embeddings=tied, context_length=64, rope_theta=1e4, source="test"
    )


def batch(n=8):
    """Answers of unequal length: the micro-batches have unequal numbers of targets."""
    tokens, targets = torch.randint(96, (2, n, 16), generator=torch.Generator().manual_seed(1))
    for i in range(n):
        targets[i, 16 - i :] = IGNORED
    return tokens, targets


def whole(tied=True):
    torch.manual_seed(0)
    return Transformer(small(tied))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_stages", [1, 2, 3, 8])
def test_stages_one_after_the_other_are_the_whole_model(tied, n_stages):
    model, (x, _) = whole(tied), batch()
    stages = [Stage(model, n_stages, stage) for stage in range(n_stages)]
    y = x
    for stage in stages:
        y = stage(y)
    torch.testing.assert_close(y, model(x), rtol=0, atol=0)
    parameters = dict(model.named_parameters())
    seen = [stage.whole_name(name) for stage in stages for name, _ in stage.named_parameters()]
    assert set(seen) == set(parameters)
    assert len(seen) == len(parameters) + (tied and n_stages > 1), "none twice, but for a tied embedding"
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameter.requires_grad
            assert torch.equal(parameter, parameters[stage.whole_name(name)])
            assert parameter.data_ptr() != parameters[stage.whole_name(name)].data_ptr(), "a copy of its own"


def test_more_stages_than_layers_are_refused():
    with pytest.raises(Indivisible, match="8 layers do not make 9 stages"):
        Stage(whole(), 9, 0)


@pytest.fixture
def alone(tmp_path):
    """This very process as the only rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=30))
    yield
    dist.destroy_process_group()


def gradients(stages):
    return {(stage.first, stage.whole_name(name)): p.grad for stage in stages for name, p in stage.named_parameters()}


def one_step(name, n_micro_batches, n_chunks, tied, device_s=(0.0, 0.0)):
    schedule = make_schedule(name, dist.get_world_size(), n_micro_batches, n_chunks)
    pipeline = Pipeline(whole(tied), schedule, device_s)
    return pipeline.step(*batch()), gradients(pipeline.stages)


def check_step(results, n_micro_batches, n_chunks, schedule, tied):
    """Loss and gradients of the whole model, on whichever rank they are; bytes sent and held as predicted."""
    model, (tokens, targets) = whole(tied), batch()
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    loss.backward()
    steps = [step for step, _ in results]
    assert [step.loss is None for step in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[-1].loss == pytest.approx(loss.item(), rel=1e-6)
    for _, found in results:
        for (_, name), gradient in found.items():
            expected = model.get_parameter(name).grad
            torch.testing.assert_close(
                gradient, expected, rtol=1e-5, atol=2e-7, msg=lambda said, name=name: name + said
            )
    pp_size, embedding = len(schedule), tied * 4 * 96 * 32
    ends = [rank in (0, pp_size - 1) for rank in range(pp_size)]
    streams = sent_bytes(tokens.numel() * 32 * 4, pp_size, n_chunks)
    if pp_size > 1:
        assert [step.sent_bytes for step in steps] == [n + e * embedding for n, e in zip(streams, ends, strict=True)]
    if len(tokens) % n_micro_batches == 0:
        assert [step.held_bytes for step in steps] == expected_held(schedule, model, tokens, targets, n_micro_batches)
    for works, step in zip(schedule, steps, strict=True):
        assert [Work(*event[1:4]) for event in step.events] == works


def expected_held(schedule, model, tokens, targets, n_micro_batches):
    """By autograd's own count of one micro-batch in each stage, and a walk through the schedule."""
    n_stages = len(schedule) * (1 + max(work.chunk for work in schedule[0]))
    x, y, of_stage = tokens[: len(tokens) // n_micro_batches], targets[: len(tokens) // n_micro_batches], []
    for stage in (Stage(model, n_stages, stage) for stage in range(n_stages)):
        with Kept(stage.parameters()) as kept:
            x = stage(x.requires_grad_() if x.is_floating_point() else x)
            x = F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="sum") / y.numel() if stage.last else x
        of_stage.append(kept.bytes + x.nbytes)
        x = x.detach()
    most = []
    for rank, works in enumerate(schedule):
        signs = [(1 if work.kind == "forward" else -1) * of_stage[work.chunk * len(schedule) + rank] for work in works]
        most.append(max(accumulate(signs)))
    return most


RUNS = [("GPipe", 4, 1, True), ("1F1B", 8, 1, True), ("1F1B", 3, 1, False), ("interleaved", 4, 2, True)]


@pytest.mark.parametrize(("name", "n_micro_batches", "n_chunks", "tied"), [*RUNS, ("interleaved", 8, 4, False)])
def test_two_ranks_are_the_whole_model(two_ranks, name, n_micro_batches, n_chunks, tied):
    results = two_ranks.run(one_step, name, n_micro_batches, n_chunks, tied)
    check_step(results, n_micro_batches, n_chunks, make_schedule(name, 2, n_micro_batches, n_chunks), tied)


@pytest.mark.parametrize(("name", "n_micro_batches", "n_chunks", "tied"), [*RUNS])
def test_one_rank_is_the_whole_model(alone, name, n_micro_batches, n_chunks, tied):
    result = one_step(name, n_micro_batches, n_chunks, tied)
    check_step([result], n_micro_batches, n_chunks, make_schedule(name, 1, n_micro_batches, n_chunks), tied)
    assert result[0].sent_bytes == 0


def test_four_ranks_are_the_whole_model_on_one_clock(four_ranks):
    device_s = (0.01, 0.02)
    results = four_ranks.run(one_step, "1F1B", 8, 1, True, device_s)
    schedule = make_schedule("1F1B", 4, 8)
    check_step(results, 8, 1, schedule, True)
    events = {(event.rank, event.kind, event.micro_batch): event for step, _ in results for event in step.events}
    for rank in (1, 2):  # the formulas' own word on what blocks keep, a result, and the cosines and sines
        of_one = blocks_kept(part(small(), pp_size=4, stage=rank), Pass(1, 16, "fp32", norm="composed"))
        assert results[rank][0].held_bytes == (4 - rank) * (of_one + 4 * 16 * (32 + 8))
    for event in events.values():
        needed = needs(Work(*event[1:4]), event.rank, 4, 1)
        if needed:
            assert event.start_s >= events[needed[2], needed[0], needed[1]].end_s
        assert event.end_s - event.start_s >= device_s[event.kind == "backward"]
    for step, _ in results:
        assert all(one.end_s <= after.start_s for one, after in pairwise(step.events))
    assert max(event.end_s for event in events.values()) >= (8 + 3) * sum(device_s), "no less than with the bubble"


def torchs_own(kind, n_micro_batches, n_chunks):
    """The same step by ours and by torch.distributed.pipelining: the largest difference of gradients, and how many."""
    rank, p = dist.get_rank(), dist.get_world_size()
    model, n_stages, (tokens, _) = whole(tied=False), p * n_chunks, batch()
    targets = tokens.roll(-1, 1)  # all count: PyTorch takes the mean of the micro-batches' means
    names = {"ScheduleGPipe": "GPipe", "Schedule1F1B": "1F1B", "ScheduleInterleaved1F1B": "interleaved"}
    pipeline = Pipeline(model, make_schedule(names[kind], p, n_micro_batches, n_chunks))
    pipeline.step(tokens, targets)
    numbers = [chunk * p + rank for chunk in range(n_chunks)]
    theirs = [PipelineStage(Stage(model, n_stages, i), i, n_stages, torch.device("cpu")) for i in numbers]

    def loss(y, wanted):
        return F.cross_entropy(y.flatten(0, 1), wanted.flatten())

    step = getattr(pipelining, kind)(theirs if n_chunks > 1 else theirs[0], n_micro_batches, loss_fn=loss).step
    step(*([tokens] if rank == 0 else []), **({"target": targets} if rank == p - 1 else {}))
    ours, torchs = gradients(pipeline.stages), gradients([stage.submod for stage in theirs])
    assert ours.keys() == torchs.keys()
    return max((ours[name] - torchs[name]).abs().max().item() for name in ours), len(ours)


@pytest.mark.parametrize(
    ("kind", "n_micro_batches", "n_chunks"),
    [("ScheduleGPipe", 4, 1), ("Schedule1F1B", 8, 1), ("ScheduleInterleaved1F1B", 4, 2)],
)
def test_gradients_are_those_of_pytorchs_schedules(two_ranks, kind, n_micro_batches, n_chunks):
    results = two_ranks.run(torchs_own, kind, n_micro_batches, n_chunks)
    assert max(difference for difference, _ in results) < 2e-7  # gradients of up to 0.2
    assert sum(n for _, n in results) == len(dict(whole(tied=False).named_parameters()))


def some_steps(n_steps):
    pipeline = Pipeline(whole(), make_schedule("1F1B", 2, 4))
    optimizer = torch.optim.SGD(pipeline.parameters(), lr=0.5)
    for _ in range(n_steps):
        pipeline.step(*batch())
        optimizer.step()
    return {stage.whole_name(name): p.detach() for stage in pipeline.stages for name, p in stage.named_parameters()}


def test_several_steps_train_as_the_whole_model_and_keep_the_copies_equal(two_ranks):
    first, last = two_ranks.run(some_steps, 3)
    assert torch.equal(first["token_embd.weight"], last["token_embd.weight"])
    model, (tokens, targets) = whole(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED).backward()
        optimizer.step()
    for name, weight in (first | last).items():
        torch.testing.assert_close(weight, model.get_parameter(name).detach(), rtol=1e-5, atol=1e-6)


def on_the_wire(n_sequences):
    pipeline = Pipeline(whole(tied=False), make_schedule("1F1B", 2, 4))
    tokens = torch.zeros(n_sequences, 64, dtype=torch.long)
    with counted() as wire:
        step = pipeline.step(tokens, tokens)
    return step.sent_bytes, wire.received_payload_bytes


@pytest.mark.skipif(bool(cannot_shape()), reason=cannot_shape())
def test_the_kernel_counts_what_is_predicted():
    """On networks of their own: the loopback's counter holds what other programs send at the time, too."""
    predicted = sent_bytes(64 * 64 * 32 * 4, 2)
    for n_bytes, (sent, received) in zip(predicted, run_ranks(2, on_the_wire, 64, network=Network(1e9)), strict=True):
        assert sent == n_bytes
        assert n_bytes < received < 1.05 * n_bytes  # the other rank sends as much; two meetings besides


@pytest.mark.parametrize(
    ("schedule", "n_sequences", "line"),
    [
        (gpipe(2, 2), 8, "a schedule for 2 ranks, and 1 run it"),
        (gpipe(1, 9), 8, "8 sequences do not make 9 micro-batches: give more"),
        ([gpipe(1, 2)[0][1:]], 8, "the forward pass of micro-batch 0 is missing"),
        ([one_f_one_b(1, 2)[0], gpipe(1, 2)[0]], 8, "nobody can go on: rank 0 waits for the backward pass"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_sent(alone, schedule, n_sequences, line):
    with pytest.raises(ValueError, match=line):
        Pipeline(whole(), schedule).step(*batch(n_sequences))


def test_a_batch_without_a_target_is_refused(alone):
    """Its mean would be 0 / 0, and so would all gradients."""
    tokens, targets = batch(2)
    with pytest.raises(ValueError, match="no target counts"):
        Pipeline(whole(), gpipe(1, 2)).step(tokens, torch.full_like(targets, IGNORED))
