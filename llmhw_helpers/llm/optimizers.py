"""From gradients to new parameters: SGD, momentum, Adam and AdamW, a learning-rate schedule, gradient clipping.

Each rule is a function of one parameter, its gradient and what the rule remembers about it; all work in place.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..specs.figures import look_up


class NonFiniteGradient(ValueError):
    """A gradient with an infinity or a NaN in it: a step with it would spread to every parameter."""


def sgd(p: Tensor, g: Tensor, state: dict, lr: float, weight_decay: float = 0.0) -> None:
    """``p -= lr * g``: downhill. Weight decay adds ``weight_decay * p`` to the gradient."""
    p -= lr * (g + weight_decay * p)


def momentum(p: Tensor, g: Tensor, state: dict, lr: float, beta: float = 0.9, weight_decay: float = 0.0) -> None:
    """``v = beta * v + g; p -= lr * v``: a heavy ball, whose state is one number a parameter."""
    v = state.setdefault("momentum_buffer", torch.zeros_like(p))
    v.mul_(beta).add_(g + weight_decay * p)
    p -= lr * v


def adam(
    p: Tensor,
    g: Tensor,
    state: dict,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """``p -= lr * m / (sqrt(v) + eps)`` with running means m of the gradient and v of its square (arXiv:1412.6980).

    The means start at zero, which is not where the gradients are; dividing by ``1 - beta**t`` mends that.
    """
    g = g + weight_decay * p
    m = state.setdefault("exp_avg", torch.zeros_like(p))
    v = state.setdefault("exp_avg_sq", torch.zeros_like(p))
    t = state["step"] = state.get("step", 0) + 1
    m.mul_(betas[0]).add_((1 - betas[0]) * g)
    v.mul_(betas[1]).add_((1 - betas[1]) * g * g)
    p -= lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)


def adamw(p: Tensor, g: Tensor, state: dict, lr: float, weight_decay: float = 0.01, **kwargs) -> None:
    """Adam whose weight decay shrinks the parameter itself, past the division by ``sqrt(v)`` (arXiv:1711.05101)."""
    p.mul_(1 - lr * weight_decay)
    adam(p, g, state, lr, **kwargs)


RULES = {"SGD": sgd, "momentum": momentum, "Adam": adam, "AdamW": adamw}


class Optimizer:
    """Applies a rule to every parameter that has a gradient.

    Args:
        rule: one of `RULES` by name.
        parameters: tensors with ``.grad``.
        lr: the learning rate; assign to it to follow a schedule.
        options: the rule's own, such as ``weight_decay``.

    Raises:
        UnknownName: there is no such rule; the message names the nearest.

    >>> w = torch.tensor([1.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.5])
    >>> Optimizer("SGD", [w], lr=0.1).step()
    >>> w
    tensor([0.9500], requires_grad=True)
    """

    def __init__(self, rule: str, parameters: Iterable[Tensor], lr: float, **options):
        self._rule: Callable = look_up(rule, RULES, "optimizer")
        self.parameters, self.lr, self._options = list(parameters), lr, options
        self.states: list[dict] = [{} for _ in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter in place.

        Raises:
            NonFiniteGradient: before anything is changed.
        """
        _refuse_non_finite(self.parameters)
        for p, state in zip(self.parameters, self.states, strict=True):
            if p.grad is not None:
                self._rule(p, p.grad, state, self.lr, **self._options)

    def zero_grad(self) -> None:
        """Let the gradients go, and their memory with them."""
        for p in self.parameters:
            p.grad = None


def cosine_with_warmup(step: int, n_warmup: int, n_steps: int, least: float = 0.0) -> float:
    """The factor on the learning rate at `step` (from 0): up in a straight line, then down half a cosine to `least`.

    >>> [round(cosine_with_warmup(step, 4, 12), 2) for step in (0, 3, 4, 8, 12)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= n_warmup < n_steps:
        raise ValueError(f"a warm-up of {n_warmup} steps does not fit into {n_steps}")
    if step < n_warmup:
        return (step + 1) / n_warmup
    done = min(1.0, (step - n_warmup) / (n_steps - n_warmup))
    return least + (1 - least) * (1 + math.cos(math.pi * done)) / 2


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Shrink all gradients by one factor, so that together they are no longer than `max_norm`; return what they were.

    Raises:
        NonFiniteGradient: there is no length.
    """
    parameters = [p for p in parameters if p.grad is not None]
    _refuse_non_finite(parameters)
    norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters))
    for p in parameters:
        p.grad.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def _refuse_non_finite(parameters: Iterable[Tensor]) -> None:
    for i, p in enumerate(parameters):
        if p.grad is not None and not torch.isfinite(p.grad).all():
            bad = f"{int((~torch.isfinite(p.grad)).sum())} of {p.grad.numel()} gradients are not finite"
            raise NonFiniteGradient(f"parameter {i} {list(p.shape)}: {bad}; no step was taken")
