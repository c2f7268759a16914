"""Every rule walks the path of its namesake in torch.optim; schedule and clipping as torch's own."""

import math

import pytest
import torch

from llmhw_helpers.llm.optimizers import RULES, NonFiniteGradient, Optimizer, clip_gradients, cosine_with_warmup
from llmhw_helpers.specs.figures import UnknownName

STEPS = 100
THEIRS = {
    "SGD": torch.optim.SGD,
    "momentum": lambda p, lr, beta=0.9, **options: torch.optim.SGD(p, lr, momentum=beta, **options),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}


def problem(seed=0):
    """A small network in float64 and the loss of its batch number `i`."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(STEPS, 16, 5, dtype=torch.float64)
    y = x[..., :1].sin() + 0.1 * torch.randn(STEPS, 16, 1, dtype=torch.float64)
    return net, lambda i: (net(x[i]) - y[i]).square().mean()


def walk(make, after_backward=lambda optimizer, step: None):
    net, loss = problem()
    optimizer, path = make(net.parameters()), []
    for i in range(STEPS):
        optimizer.zero_grad()
        loss(i).backward()
        after_backward(optimizer, i)
        optimizer.step()
        path.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return torch.stack(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"weight_decay": 0.1}),
        ("momentum", {}),
        ("momentum", {"beta": 0.5, "weight_decay": 0.1}),
        ("Adam", {}),
        ("Adam", {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
        ("AdamW", {}),
        ("AdamW", {"weight_decay": 0.3, "betas": (0.8, 0.95)}),
        ("AdamW", {"weight_decay": 0.0}),
    ],
)
def test_the_path_is_that_of_torch_optim(name, options):
    ours = walk(lambda parameters: Optimizer(name, parameters, lr=0.02, **options))
    theirs = walk(lambda parameters: THEIRS[name](parameters, lr=0.02, **options))
    assert (ours[-1] - ours[0]).abs().max() > 0.05  # it went somewhere
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_every_rule_is_compared():
    assert set(RULES) == set(THEIRS)


def test_adam_and_adamw_differ_by_where_the_decay_goes_in():
    adam, adamw = (walk(lambda p, n=n: Optimizer(n, p, lr=0.02, weight_decay=0.1)) for n in ("Adam", "AdamW"))
    assert (adam - adamw).abs().max() > 1e-3


@pytest.mark.parametrize(("n_warmup", "least"), [(10, 0.0), (1, 0.1), (0, 0.0), (25, 0.5)])
def test_the_schedule_is_torchs_linear_warm_up_then_cosine(n_warmup, least):
    peak = 0.3
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - n_warmup, eta_min=least * peak)
    schedule = cosine
    if n_warmup:
        ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / n_warmup, total_iters=max(1, n_warmup - 1))
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [n_warmup])
    theirs = []
    for _ in range(STEPS):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [peak * cosine_with_warmup(i, n_warmup, STEPS, least) for i in range(STEPS)] == pytest.approx(theirs)


def test_a_whole_recipe_of_clipping_schedule_and_adamw_is_torchs():
    def ours(optimizer, i):
        clip_gradients(optimizer.parameters, 0.1)
        optimizer.lr = 0.05 * cosine_with_warmup(i, 10, STEPS)

    def theirs(optimizer, i):
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)
        schedule = cosine_with_warmup(i, 10, STEPS)  # compared with torch's above
        optimizer.param_groups[0]["lr"] = 0.05 * schedule

    path = walk(lambda p: Optimizer("AdamW", p, lr=0.05), ours)
    torch.testing.assert_close(path, walk(lambda p: torch.optim.AdamW(p, lr=0.05), theirs), rtol=0, atol=1e-8)


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
def test_clipping_is_clip_grad_norm(max_norm):
    nets = [problem()[0] for _ in range(2)]
    for net in nets:
        net(torch.ones(3, 5, dtype=torch.float64)).sum().backward()
    ours = clip_gradients(nets[0].parameters(), max_norm)
    theirs = torch.nn.utils.clip_grad_norm_(nets[1].parameters(), max_norm)
    assert ours == pytest.approx(theirs.item(), rel=1e-12)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=0)


def test_it_works_in_place_and_lets_parameters_without_a_gradient_alone():
    used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    where = used.data_ptr()
    optimizer = Optimizer("AdamW", [used, unused], lr=0.1)
    used.sum().backward()
    optimizer.step()
    assert used.data_ptr() == where
    assert unused.tolist() == [1, 1, 1]
    assert optimizer.states[1] == {}
    optimizer.zero_grad()
    assert used.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_anything_moves(bad):
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    first.grad, second.grad = torch.ones(2), torch.tensor([[0.0, bad], [0.0, 1.0]])
    optimizer = Optimizer("Adam", [first, second], lr=0.1)
    line = r"^parameter 1 \[2, 2\]: 1 of 4 gradients are not finite; no step was taken$"
    with pytest.raises(NonFiniteGradient, match=line):
        optimizer.step()
    with pytest.raises(NonFiniteGradient, match=line):
        clip_gradients([first, second], 1.0)
    assert first.tolist() == [1, 1]
    assert first.grad.tolist() == [1, 1]


def test_unknown_names_and_senseless_schedules_are_refused_in_one_line():
    with pytest.raises(UnknownName, match=r"^unknown optimizer 'Adamw2'; did you mean AdamW or Adam\?$"):
        Optimizer("Adamw2", [], lr=0.1)
    with pytest.raises(ValueError, match=r"^a warm-up of 10 steps does not fit into 10$"):
        cosine_with_warmup(0, 10, 10)
