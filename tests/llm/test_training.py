"""Training against plain PyTorch, and runs that are stopped, killed and gone on with."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.nn.functional as F

from llmhw_helpers.files import NotSaved
from llmhw_helpers.llm.corpora import BadCorpus, Batches, open_corpus, write_corpus
from llmhw_helpers.llm.markov import MarkovSource
from llmhw_helpers.llm.optimizers import Optimizer, clip_gradients, cosine_with_warmup
from llmhw_helpers.llm.runs import BadCheckpoint, read_run, write_run
from llmhw_helpers.llm.training import (
    UNLABELLED,
    NonFiniteLoss,
    Plan,
    Trainer,
    answer_loss,
    next_token_loss,
    pack,
)
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.exporters import Exporter
from llmhw_helpers.measure.scrapes import scrape
from llmhw_helpers.specs.architectures import Model

SPEC = Model("tiny", 2, 32, 2, 2, 16, 64, 8, True, 32, 1e4, "made up")
PLAN = Plan(n_steps=12, n_warmup=2, lr=1e-2)


@pytest.fixture(autouse=True)
def one_thread():
    """So small a model is fastest on one core, and does not wait for those that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "text", MarkovSource.random(8, 1, 2, seed=0).sample(4, 500, seed=1), 8)


def make(corpus, plan=PLAN, spec=SPEC):
    torch.manual_seed(0)
    return Trainer(Transformer(spec), Batches(corpus, 4, 16), plan)


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_steps_are_those_of_the_courses_own_rules(corpus):
    """Notebook 02's AdamW, schedule and clipping, one after the other, in a loop of plain PyTorch."""
    trainer, batches = make(corpus), Batches(corpus, 4, 16)
    torch.manual_seed(0)
    twin = Transformer(SPEC)
    kinds = [[p for p in twin.parameters() if (p.dim() >= 2) == matrix] for matrix in (True, False)]
    optimizers = [Optimizer("AdamW", kinds[0], 0, betas=(0.9, 0.95), weight_decay=0.1)]
    optimizers += [Optimizer("AdamW", kinds[1], 0, betas=(0.9, 0.95), weight_decay=0.0)]
    for i in range(12):
        batch = batches(i)
        logits = twin(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 8), batch[:, 1:].reshape(-1))
        loss.backward()
        clip_gradients(twin.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.lr = 1e-2 * cosine_with_warmup(i, 2, 12, least=0.1)
            optimizer.step()
            optimizer.zero_grad()
        assert trainer.run(1)[0] == pytest.approx(loss.item(), abs=1e-5)
    assert trainer.step == 12
    assert trainer.run() == []


def test_it_learns_a_source_down_to_its_floor(tmp_path):
    source = MarkovSource.random(8, 1, 2, seed=0)
    corpus = write_corpus(tmp_path / "text", source.sample(16, 2000, seed=1), 8)
    torch.manual_seed(0)
    trainer = Trainer(Transformer(SPEC), Batches(corpus, 16, 32), Plan(150, 10, lr=1e-2))
    losses = trainer.run()
    assert losses[0] > 2.0
    assert sum(losses[-20:]) / 20 == pytest.approx(source.floor(), rel=0.1)


def test_accumulated_gradients_are_the_large_batchs(corpus):
    torch.manual_seed(0)
    model = Transformer(SPEC).double()
    parts = [Batches(corpus, 4, 16)(i) for i in range(4)]
    next_token_loss(model, torch.cat(parts)).backward()
    large = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for part in parts:
        (next_token_loss(model, part) / 4).backward()
    for p, gradient in zip(model.parameters(), large, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-8)  # the loss itself is computed in fp32


def test_a_run_with_accumulation_is_the_run_with_the_large_batch(corpus):
    small = Batches(corpus, 4, 16)
    torch.manual_seed(0)
    large = Trainer(Transformer(SPEC), lambda i: torch.cat([small(3 * i + k) for k in range(3)]), PLAN)
    accumulating = make(corpus, dataclasses.replace(PLAN, n_accumulate=3))
    assert accumulating.run() == pytest.approx(large.run(), abs=1e-4)


TALKS = [([1, 2, 3], [4, 5]), ([6], [7, 0, 1]), ([2], [3])]
ONE_AND_THIRTY = [([1, 2, 3], [4]), ([5, 6], [k % 8 for k in range(30)])]


def gradients_of(batches, n_accumulate, loss=answer_loss, max_norm=1e9, dtype="fp32"):
    """The loss of the first step, and the gradients that its optimizer was given."""
    torch.manual_seed(0)
    model, given = Transformer(SPEC), {}
    plan = dataclasses.replace(PLAN, n_accumulate=n_accumulate, max_norm=max_norm, dtype=dtype)
    trainer = Trainer(model, batches, plan, loss)
    trainer.optimizer.register_step_pre_hook(
        lambda *_: given.update({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    return trainer.run(1), torch.cat([gradient.flatten() for gradient in given.values()])


def assert_equal_steps(ours, oracle, rtol=1e-5):
    """Sums in another order: about the square root of their lengths in roundings of fp32."""
    assert ours[0] == pytest.approx(oracle[0], rel=rtol)
    assert (ours[1] - oracle[1]).norm() < rtol * oracle[1].norm()


def test_the_mean_of_means_is_not_the_mean():
    """An answer of 1 token and one of 30, whose tokens weigh alike only in the mean over 31."""
    large = gradients_of(lambda i: pack(ONE_AND_THIRTY), 1)
    small = gradients_of(lambda i: pack([ONE_AND_THIRTY[i % 2]]), 2)
    assert_equal_steps(small, large)
    means = [gradients_of(lambda i, pair=pair: pack([pair]), 1)[1] for pair in ONE_AND_THIRTY]
    assert (sum(means) / 2 - large[1]).norm() > 0.5 * large[1].norm()  # so the test can tell


def test_an_accumulated_step_is_pytorchs_own_over_all_its_tokens():
    """Against one plain cross-entropy, which knows no micro-batches; three of unequal size, as at a text's end."""
    pairs = [*TALKS, *ONE_AND_THIRTY, ([7, 7], [1, 2, 3])]
    parts = [pairs[:3], pairs[3:5], pairs[5:]]
    ours = gradients_of(lambda i: pack(parts[i % 3]), 3)
    torch.manual_seed(0)
    model, batch = Transformer(SPEC), pack(pairs)
    loss = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=UNLABELLED)
    loss.backward()
    assert_equal_steps(ours, ([loss.item()], torch.cat([p.grad.flatten() for p in model.parameters()])))


def test_texts_of_unequal_length_accumulate_to_the_mean_over_their_tokens():
    """The loss of plain text, too: micro-batches of 4 x 16, 4 x 5 and 1 x 16 tokens."""
    torch.manual_seed(1)
    parts = [torch.randint(8, shape) for shape in ((4, 17), (4, 6), (1, 17))]
    ours = gradients_of(parts.__getitem__, 3, next_token_loss)
    torch.manual_seed(0)
    model = Transformer(SPEC)
    logits = torch.cat([model(part[:, :-1]).flatten(0, 1) for part in parts])
    loss = F.cross_entropy(logits, torch.cat([part[:, 1:].flatten() for part in parts]))
    loss.backward()
    assert_equal_steps(ours, ([loss.item()], torch.cat([p.grad.flatten() for p in model.parameters()])))


def test_in_bf16_it_is_the_large_batch_to_the_rounding_of_bf16():
    large = gradients_of(lambda i: pack(ONE_AND_THIRTY), 1, dtype="bf16")
    small = gradients_of(lambda i: pack([ONE_AND_THIRTY[i % 2]]), 2, dtype="bf16")
    assert_equal_steps(small, large, rtol=2**-5)  # an eighth of bf16's 8 bits is left to a chain of two layers


def test_gradients_are_cut_when_the_whole_step_is_there():
    """To a length below that of either micro-batch: cut one by one, they would add up to another direction."""
    whole, cut = (gradients_of(lambda i: pack([ONE_AND_THIRTY[i % 2]]), 2, max_norm=length)[1] for length in (1e9, 0.1))
    torch.testing.assert_close(cut, whole * 0.1 / whole.norm(), rtol=1e-4, atol=1e-7)


def unlabelled(batch):
    return torch.stack((batch[0], torch.full_like(batch[1], UNLABELLED)))


def test_a_micro_batch_without_labels_adds_nothing():
    alone = gradients_of(lambda i: pack(TALKS), 1)
    parts = [pack(TALKS), unlabelled(pack(ONE_AND_THIRTY))]
    ours = gradients_of(lambda i: parts[i % 2], 2)
    assert ours[0] == alone[0]
    assert torch.equal(ours[1], alone[1])


def test_a_step_without_labels_is_refused_and_changes_nothing():
    torch.manual_seed(0)
    batches = [pack(TALKS), pack(TALKS), unlabelled(pack(TALKS)), unlabelled(pack(TALKS))]
    trainer = Trainer(Transformer(SPEC), batches.__getitem__, dataclasses.replace(PLAN, n_accumulate=2), answer_loss)
    trainer.run(1, depth=0)
    before = parameters(trainer)
    with pytest.raises(NonFiniteLoss, match=r"^step 1: no token of its batches is labelled.*no step was taken"):
        trainer.run(1, depth=0)
    assert trainer.step == len(trainer.losses) == 1
    assert torch.equal(parameters(trainer), before)


def test_a_loss_over_nothing_is_refused():
    with pytest.raises(ValueError, match="no token of the batch is labelled"):
        answer_loss(Transformer(SPEC), unlabelled(pack(TALKS)))


def test_a_step_that_was_interrupted_leaves_nothing_in_the_next(corpus):
    """As by a learner's "stop", between the micro-batches; the step is done again from its beginning."""
    plan, calls = dataclasses.replace(PLAN, n_accumulate=2), []

    def stopped_once(*given):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return next_token_loss(*given)

    whole, trainer = make(corpus, plan), make(corpus, plan)
    trainer.loss = stopped_once
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    trainer.run()
    assert trainer.losses == whole.run()
    assert torch.equal(parameters(trainer), parameters(whole))


@pytest.mark.parametrize("stop", [1, 2])
def test_answers_of_unequal_length_go_on_to_equal_bits(tmp_path, stop):
    def started():
        torch.manual_seed(0)
        plan = dataclasses.replace(PLAN, n_accumulate=2)
        return Trainer(Transformer(SPEC), lambda i: pack([ONE_AND_THIRTY[i % 2]]), plan, answer_loss)

    whole, first, second = started(), started(), started()
    whole.run(4)
    first.run(stop)
    first.save(tmp_path / "run")
    assert second.resume(tmp_path / "run")
    second.run(4 - stop)
    assert second.losses == whole.losses
    assert torch.equal(parameters(second), parameters(whole))


def test_recomputation_changes_no_bit_of_the_gradients(corpus):
    torch.manual_seed(0)
    model, batch = Transformer(SPEC), Batches(corpus, 4, 16)(0)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        next_token_loss(model, batch, recompute).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_products_in_bf16_end_near(corpus):
    half = make(corpus, dataclasses.replace(PLAN, dtype="bf16")).run()
    assert half == pytest.approx(make(corpus).run(), rel=0.05)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(corpus, poison):
    trainer = make(corpus)
    trainer.run(3)
    with torch.no_grad():
        trainer.model.output_norm.weight[0] = poison
    before, state = parameters(trainer), trainer.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    with pytest.raises(NonFiniteLoss, match=r"^step 3: the loss is nan.*no step was taken") as caught:
        trainer.run(2)
    assert "\n" not in str(caught.value)
    assert trainer.step == 3
    assert len(trainer.losses) == 3
    assert torch.equal(parameters(trainer).nan_to_num(), before.nan_to_num())
    assert torch.equal(trainer.optimizer.state_dict()["state"][0]["exp_avg"], state)


def test_an_exporter_is_told_of_every_step(corpus):
    trainer, pause = make(corpus), 0.03  # seconds
    batches = trainer.batches

    def slow(i):
        time.sleep(pause)
        return batches(i)

    with Exporter(rank=1) as exporter:
        trainer.batches, trainer.exporter = slow, exporter
        losses = trainer.run(3, depth=0)
        page = scrape(exporter.url)
    assert page.by("train_step_seconds_count", "rank") == {"1": 3}
    assert page.total("train_tokens_total") == 3 * 4 * 16
    assert page.total("train_loss") == losses[-1]
    waited = page.by("train_waiting_seconds_total", "waits_for")
    assert waited["data"] >= 3 * pause
    assert waited["ranks"] == 0
    assert page.total("train_busy_seconds_total") == pytest.approx(
        page.total("train_step_seconds_sum") - waited["data"]
    )


def test_a_corpus_with_more_tokens_than_the_model_is_refused(corpus):
    with pytest.raises(BadCorpus, match="text has a vocabulary of 8, the model one of 7"):
        make(corpus, spec=dataclasses.replace(SPEC, vocab_size=7))


@pytest.mark.parametrize(
    "wrong", [{"recompute": "half"}, {"dtype": "int8"}, {"n_accumulate": 0}, {"n_warmup": 12}, {"n_steps": 0}]
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="a plan"):
        dataclasses.replace(PLAN, **wrong)


@pytest.mark.parametrize("changes", [{}, {"n_accumulate": 2}, {"recompute": "full"}])
@pytest.mark.parametrize("stop", [0, 1, 5, 12])
def test_a_run_goes_on_to_equal_bits(corpus, tmp_path, stop, changes):
    plan = dataclasses.replace(PLAN, **changes)
    whole = make(corpus, plan)
    whole.run()
    first = make(corpus, plan)
    first.run(stop)
    first.save(tmp_path / "run")
    torch.manual_seed(99)
    second = Trainer(Transformer(SPEC), Batches(corpus, 4, 16), plan)  # other weights, at first
    second.run(min(stop, 3))
    assert second.resume(tmp_path / "run")
    assert second.step == stop
    assert second.losses == whole.losses[:stop]
    second.run()
    assert second.losses == whole.losses
    assert torch.equal(parameters(second), parameters(whole))


def test_random_numbers_go_on_too(corpus, tmp_path):
    trainer = make(corpus)
    trainer.save(tmp_path / "run")
    expected = torch.rand(3)
    assert trainer.resume(tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_without_a_checkpoint_it_starts_at_the_beginning(corpus, tmp_path):
    trainer = make(corpus)
    assert not trainer.resume(tmp_path / "run")
    assert trainer.step == 0


@pytest.mark.parametrize("other", ["model", "plan", "corpus or batches"])
def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(corpus, tmp_path, other):
    first = make(corpus)
    first.run(2)
    first.save(tmp_path / "run")
    spec = dataclasses.replace(SPEC, d_ff=32) if other == "model" else SPEC
    plan = dataclasses.replace(PLAN, lr=1e-3) if other == "plan" else PLAN
    trainer = Trainer(Transformer(spec), Batches(corpus, 4, 16, seed=int(other == "corpus or batches")), plan)
    before = parameters(trainer)
    with pytest.raises(BadCheckpoint, match=f"run is of another {other};"):
        trainer.resume(tmp_path / "run")
    assert torch.equal(parameters(trainer), before)
    assert trainer.step == 0


@pytest.mark.parametrize("lost", ["model.output_norm.weight", "exp_avg.token_embd.weight", "step.token_embd.weight"])
def test_a_checkpoint_without_a_tensor_is_refused_and_changes_nothing(corpus, tmp_path, lost):
    trainer = make(corpus)
    trainer.run(2)
    trainer.save(tmp_path / "run")
    tensors, about = read_run(tmp_path / "run")
    write_run(tmp_path / "run", {name: each for name, each in tensors.items() if name != lost}, about)
    before = parameters(trainer)
    with pytest.raises(BadCheckpoint, match=f"run lacks {lost}"):
        trainer.resume(tmp_path / "run")
    assert torch.equal(parameters(trainer), before)


def test_a_full_disk_stops_nothing_but_the_saving(corpus, tmp_path, monkeypatch):
    trainer, whole = make(corpus), make(corpus)
    trainer.run(4)
    trainer.save(tmp_path / "run")
    trainer.run(4)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(NotSaved, match="No space left on device"):
            trainer.save(tmp_path / "run")
    trainer.run()
    assert trainer.losses == whole.run()
    again = make(corpus)
    assert again.resume(tmp_path / "run")
    assert again.step == 4


VICTIM = """
import sys, torch
from pathlib import Path
from llmhw_helpers.llm.corpora import Batches, open_corpus
from llmhw_helpers.llm.training import Plan, Trainer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.exporters import Exporter
from llmhw_helpers.measure.scrapes import scrape
from llmhw_helpers.specs.architectures import Model
folder = Path(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(0)
spec = Model("tiny", 2, 32, 2, 2, 16, 64, 8, True, 32, 1e4, "made up")
batches, plan = Batches(open_corpus(folder / "text"), 4, 16), Plan(n_steps=150, n_warmup=2, lr=1e-2)
trainer = Trainer(Transformer(spec), batches, plan)
trainer.resume(folder / "run")
while trainer.step < 150:
    trainer.run(1)
    trainer.save(folder / "run")
"""


def test_killed_again_and_again_at_any_moment_it_arrives_where_an_undisturbed_run_does(corpus, tmp_path):
    """It saves after each step, so that most kills fall into the saving."""
    plan = Plan(n_steps=150, n_warmup=2, lr=1e-2)
    whole = make(corpus, plan)
    whole.run()
    steps = []
    for _ in range(3):
        before = (tmp_path / "run").stat().st_mtime_ns if (tmp_path / "run").exists() else None
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:  # until it has saved anew, then at a moment of no plan
            if (tmp_path / "run").exists() and (tmp_path / "run").stat().st_mtime_ns != before:
                break
            time.sleep(0.001)
        time.sleep(0.02 + 0.0137 * len(steps))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        steps.append(read_run(tmp_path / "run")[1]["step"])
    assert steps == sorted(steps)
    assert steps[0] > 0
    last = make(open_corpus(tmp_path / "text"), plan)
    assert last.resume(tmp_path / "run")
    last.run()
    assert last.losses == whole.losses
    assert torch.equal(parameters(last), parameters(whole))


def test_a_run_that_fails_leaves_no_thread_behind(corpus):
    trainer = make(corpus)
    with torch.no_grad():
        trainer.model.output_norm.weight[0] = math.nan
    with pytest.raises(NonFiniteLoss):
        trainer.run()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


def test_answers_packed_together_have_the_loss_of_each_by_itself():
    """Against PyTorch's own cross-entropy, one unpadded sequence at a time."""
    torch.manual_seed(0)
    model = Transformer(SPEC)
    expected = []
    for prompt, answer in TALKS:
        logits = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1]
        expected += F.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    assert answer_loss(model, pack(TALKS)).item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_the_answers_loss_has_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    model = Transformer(SPEC).double()
    batch, gradients = pack(TALKS), []
    for recompute in (False, True):
        model.zero_grad()
        answer_loss(model, batch, recompute).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()).backward()
    for p, a, b in zip(model.parameters(), *gradients, strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-5, atol=1e-8)  # the loss itself is computed in fp32
        assert torch.equal(a, b)


@pytest.mark.parametrize("pairs", [[], [([], [1])], [([1], [])]])
def test_nothing_to_pack_is_refused(pairs):
    with pytest.raises(ValueError, match="at least one token"):
        pack(pairs)


def test_a_model_in_bf16_goes_on_to_equal_bits(corpus, tmp_path):
    def started():
        torch.manual_seed(0)
        return Trainer(Transformer(SPEC).to(torch.bfloat16), Batches(corpus, 4, 16), PLAN)

    whole, first, second = started(), started(), started()
    losses = whole.run(6)
    first.run(3)
    first.save(tmp_path / "run")
    assert second.resume(tmp_path / "run")
    assert second.run(3) == losses[3:]
    assert parameters(second).dtype == torch.bfloat16
    assert torch.equal(parameters(second), parameters(whole))
