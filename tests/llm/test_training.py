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

from llmhw_helpers.llm.corpora import BadCorpus, Batches, open_corpus, write_corpus
from llmhw_helpers.llm.files import NotSaved
from llmhw_helpers.llm.markov import MarkovSource
from llmhw_helpers.llm.optimizers import Optimizer, clip_gradients, cosine_with_warmup
from llmhw_helpers.llm.runs import BadCheckpoint, read_run, write_run
from llmhw_helpers.llm.training import NonFiniteLoss, Plan, Trainer, answer_loss, next_token_loss, pack
from llmhw_helpers.llm.transformer import Transformer
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


TALKS = [([1, 2, 3], [4, 5]), ([6], [7, 0, 1]), ([2], [3])]


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
