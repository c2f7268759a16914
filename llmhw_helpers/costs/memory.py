"""The memory of a training step: the copies of the parameters, and the peak as a maximum over phases.

What is in memory changes within a step. Activations are there at the end of the forward pass and gone when the
optimizer steps; gradients are the other way round. So the peak is the largest of the phases, never their sum.
"""

import itertools
from dataclasses import dataclass

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up
from .activations import blocks_kept, first_operations, last_operations
from .backward import Gradients, Phase, fullest, units
from .operations import Pass
from .parameters import n_tensors, parameter_sizes


@dataclass(frozen=True)
class Optimizer:
    """What an update rule holds, as PyTorch implements it.

    Attributes:
        states: numbers that it keeps for each parameter, by PyTorch's names.
        counter: it also keeps a step counter for each tensor, 4 bytes.
        foreach_copies: temporaries of a step over all parameters at once, in numbers a parameter.
        loop_copies: the same of a step tensor by tensor, in numbers for each parameter of the tensor at hand; one of
            the tensor before lingers, as its name is given away only when the next is ready.
    """

    states: tuple[str, ...] = ()
    counter: bool = False
    foreach_copies: int = 0
    loop_copies: int = 0


_ADAM = Optimizer(("exp_avg", "exp_avg_sq"), counter=True, foreach_copies=1, loop_copies=2)
OPTIMIZERS = {"SGD": Optimizer(), "momentum": Optimizer(("momentum_buffer",)), "Adam": _ADAM, "AdamW": _ADAM}
COUNTER_BYTES = 4
BATCH_BYTES = 16  # a token and the one to predict, int64 each
IMPLEMENTATIONS = {name: name for name in ("foreach", "loop", "fused")}


@dataclass(frozen=True)
class Recipe:
    """How parameters are held and updated. The default is the usual mixed precision: 16 bytes a parameter.

    Attributes:
        optimizer: one of `OPTIMIZERS`.
        parameter_dtype, gradient_dtype: of what the model computes with and of what its backward leaves in ``.grad``.
        master_dtype: of a second, finer copy of the parameters that the optimizer updates; None without.
        state_dtype: of the optimizer's states.
        accumulation_dtype: of a second, finer copy of the gradients, for sums over micro-batches; None without.
        implementation: ``"foreach"`` (all tensors at once, PyTorch's choice on a GPU), ``"loop"`` (one by one, its
            choice on a CPU) or ``"fused"`` (one kernel, no temporaries).
    """

    optimizer: str = "AdamW"
    parameter_dtype: str = "bf16"
    gradient_dtype: str = "bf16"
    master_dtype: str | None = "fp32"
    state_dtype: str = "fp32"
    accumulation_dtype: str | None = None
    implementation: str = "foreach"

    def __post_init__(self):
        look_up(self.optimizer, OPTIMIZERS, "optimizer")
        look_up(self.implementation, IMPLEMENTATIONS, "optimizer implementation")
        formats = (
            self.parameter_dtype,
            self.gradient_dtype,
            self.master_dtype,
            self.state_dtype,
            self.accumulation_dtype,
        )
        for name in filter(None, formats):
            if not find_dtype(name).is_float:
                raise ValueError(f"{name} cannot be trained in: choose a floating-point format")


FP32 = Recipe(parameter_dtype="fp32", gradient_dtype="fp32", master_dtype=None)


def copies(n_params: int, recipe: Recipe, n_tensors: int = 0) -> dict[str, int]:
    """Bytes of every copy of the parameters, by what it is for; only those that the recipe has.

    Args:
        n_params: numbers in the model, a tied head counted once.
        recipe: optimizer and formats.
        n_tensors: parameter tensors, for the optimizers that count their steps in each.

    >>> copies(1_000_000, Recipe())
    {'parameters': 2000000, 'gradients': 2000000, 'master': 4000000, 'exp_avg': 4000000, 'exp_avg_sq': 4000000}
    >>> [sum(copies(1, r).values()) for r in (Recipe(gradient_dtype="fp32"), Recipe(accumulation_dtype="fp32"), FP32)]
    [18, 20, 16]
    """
    if n_params < 1:
        raise ValueError(f"a model has at least one parameter, not {n_params}")
    rule = look_up(recipe.optimizer, OPTIMIZERS, "optimizer")
    parts = {
        "parameters": recipe.parameter_dtype,
        "gradients": recipe.gradient_dtype,
        "accumulated gradients": recipe.accumulation_dtype,
        "master": recipe.master_dtype,
    }
    parts |= dict.fromkeys(rule.states, recipe.state_dtype)
    held = {part: int(n_params * find_dtype(name).bytes) for part, name in parts.items() if name}
    return held | ({"step": COUNTER_BYTES * n_tensors} if rule.counter and n_tensors else {})


def phases(model: Model, run: Pass, recipe: Recipe, accumulate: bool = False) -> list[Phase]:
    """The three phases of a training step that is not the first (the optimizer's states exist), each at its fullest.

    Args:
        model: of a kind that `costs.activations` knows.
        run: batch and choices of the pass.
        recipe: optimizer and formats.
        accumulate: gradients exist already when the step begins, of a micro-batch before; else they appear one by
            one during the backward pass (``zero_grad(set_to_none=True)``, PyTorch's default).

    Raises:
        NoFormula: another kind of model.
        ValueError: parameters and activations differ in format, as under autocast, which keeps cast weights, too.
    """
    if find_dtype(run.activation_dtype) != find_dtype(recipe.parameter_dtype):
        raise ValueError(
            f"{recipe.parameter_dtype} parameters and {run.activation_dtype} activations: no formula for autocast"
        )
    n_params = sum(parameter_sizes(model))  # a router's bias is none: nothing learns it by gradients
    held = copies(n_params, recipe, n_tensors(model)) | {"batch": BATCH_BYTES * run.n_tokens}
    gradients, made = held.pop("gradients"), int(find_dtype(recipe.gradient_dtype).bytes)
    last = last_operations(model, run)
    logits = max(operation.kept for operation in last)  # of the loss, whose input is still there as well
    kept = blocks_kept(model, run) + sum(o.kept for o in first_operations(model, run) + last)
    forward = held | {"gradients": gradients if accumulate else 0, "activations": kept, "working": logits}
    step = held | {"gradients": gradients, "activations": 0, "working": temporaries(model, recipe)}
    return [
        Phase("forward", forward, "loss"),
        fullest(units(model, run), held, kept, Gradients(made, made, accumulate)),
        Phase("step", step, "optimizer"),
    ]


def peak(model: Model, run: Pass, recipe: Recipe, accumulate: bool = False) -> Phase:
    """The fullest phase: what has to fit.

    >>> from llmhw_helpers.specs.models import model
    >>> top = peak(model("Llama-3.2-1B"), Pass(batch_size=4, seq_len=2048), Recipe())
    >>> top.name, top.at, round(top.bytes / 1e9, 1)
    ('backward', 'loss', 42.1)
    """
    return max(phases(model, run, recipe, accumulate), key=lambda phase: phase.bytes)


def temporaries(model: Model, recipe: Recipe, n_ranks: int = 1) -> int:
    """What a step allocates for itself: in the rule, and to widen the gradients for a finer master copy.

    Of `n_ranks` ranks that update a share of each tensor, one.
    """
    rule = look_up(recipe.optimizer, OPTIMIZERS, "optimizer")
    kind = look_up(recipe.implementation, IMPLEMENTATIONS, "optimizer implementation")
    if kind == "fused":
        return 0
    sizes = [0, *(-(-size // n_ranks) for size in parameter_sizes(model))]
    n_temporary = n_widened = sum(sizes)
    if kind == "foreach":
        n_temporary *= rule.foreach_copies
    else:
        n_widened = max(sizes)
        pairs = itertools.pairwise(sizes)
        n_temporary = max(last + rule.loop_copies * this for last, this in pairs) if rule.loop_copies else 0
    given = recipe.accumulation_dtype or recipe.gradient_dtype
    widened = recipe.master_dtype if recipe.master_dtype and recipe.master_dtype != given else None
    widened = n_widened * find_dtype(widened).bytes if widened else 0
    return int(n_temporary * find_dtype(recipe.state_dtype).bytes + widened)
