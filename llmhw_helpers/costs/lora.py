"""What LoRA (arXiv:2106.09685) saves, and what it does not: parameters, their copies, activations, operations.

All of it follows from one question, asked of each tensor in turn: does anybody want its gradient?
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ..specs.architectures import Model, NoFormula
from ..specs.blocks import block
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up
from .activations import block_activations
from .memory import FP32, Recipe, copies
from .operations import FP32_BYTES, Pass
from .transformer import BIASES, LOCAL, forward_flops, require

LABEL_BYTES, MASK_BYTES = 8, 1  # the token to predict, int64; whether a position is labelled
NF4_BITS = block("NF4, double").bits_per_weight  # QLoRA's (arXiv:2305.14314): its scales are quantised, too


class BadLoRA(ValueError):
    """An adapter that a model cannot have."""


@dataclass(frozen=True)
class LoRA:
    """Adapters of one rank beside some of a block's linear layers, in every block; all else is frozen.

    Attributes:
        rank: of every adapter.
        targets: layers by their names in a GGUF file.
    """

    rank: int
    targets: tuple[str, ...] = ("attn_q", "attn_v")


ALL_LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def n_trainable(model: Model, lora: LoRA) -> int:
    """Parameters of all adapters: ``rank * (n_in + n_out)`` for each.

    Raises:
        BadLoRA: the rank is below 1, or larger than a side of a matrix.
        NoFormula: the model's layers have other matrices: experts, latent attention.
        UnknownName: a target is no linear layer of a block; the message names the nearest.

    >>> from llmhw_helpers.specs.models import model
    >>> n_trainable(model("Llama-2-7B"), LoRA(8))
    4194304
    """
    return model.n_layers * sum(lora.rank * (n_in + n_out) for n_out, n_in in _adapted(model, lora))


def finetuning_flops(
    model: Model, batch_size: int, seq_len: int, n_labelled: int, lora: LoRA | None = None
) -> dict[str, int]:
    """Operations of a step by what they are for; without `lora` everything is trained.

    Parts: ``forward``; ``through``, gradients of activations, which travel back through every matrix, frozen or not;
    ``weights``, the gradients of the big matrices, which nobody asks for when these are frozen; ``adapters``, all that
    the thin matrices do.

    Args:
        model: without experts or latent attention.
        batch_size, seq_len: sequences, and tokens in each.
        n_labelled: positions in the whole batch that the loss asks for; the head works on these alone.
        lora: the adapters.

    Raises:
        NoFormula, BadLoRA, UnknownName: as `forward_flops` and `n_trainable`.
    """
    n, head = batch_size * seq_len, 2 * n_labelled * model.d_model * model.vocab_size
    between = forward_flops(model, batch_size, seq_len, 0)["attention"]
    matrices = {name: 2 * n * n_in * n_out for name, (n_out, n_in) in model.matrices().items()}
    all_matrices = model.n_layers * sum(matrices.values())
    parts = {"forward": all_matrices + between + head, "through": all_matrices + 2 * between + head}
    if lora is None:
        return parts | {"weights": all_matrices + head, "adapters": 0}
    # Before the first adapter nobody wants a gradient: the embedding is frozen.
    wanted = _Wanted(lora.targets, stream=False)
    unwanted = [name for name, of_input in wanted.inputs().items() if not of_input]
    parts["through"] -= sum(matrices[name] for name in unwanted)
    if not wanted.attention:
        if 0 < model.n_local_layers < model.n_layers:
            raise NoFormula(f"{model.name} has layers with and without a window: which is the first, nobody says")
        parts["through"] -= 2 * between // model.n_layers
    thin = [2 * n * lora.rank * side for sizes in _adapted(model, lora) for side in sizes]
    first = [2 * n * lora.rank * model.matrices()[name][1] for name in unwanted if name in lora.targets]
    return parts | {"weights": 0, "adapters": 3 * model.n_layers * sum(thin) - sum(first)}


def lora_activations(model: Model, run: Pass, lora: LoRA, n_labelled: int) -> dict[str, int]:
    """Bytes kept for the backward pass when everything but the adapters is frozen; they sum to the total.

    Parts: ``blocks``, of which the first keeps a little less; ``final_norm``; ``loss``, for the labelled positions.
    With recomputation ``blocks`` are the inputs of all of them, and the one that is being run again.

    Raises:
        NoFormula, BadLoRA, UnknownName: another family of models, an adapter that cannot be.
    """
    first, other = (sum(lora_block_activations(model, run, lora, first).values()) for first in (True, False))
    blocks = first + (model.n_layers - 1) * other
    c, wide = run.number_bytes, max(run.number_bytes, FP32_BYTES)
    if run.recompute == "full":
        blocks = model.n_layers * run.n_tokens * model.d_model * c + other
    norm = run.n_tokens * (model.d_model * (c if run.norm == "fused" else wide) + FP32_BYTES)
    loss = n_labelled * (c * model.d_model + FP32_BYTES * model.vocab_size + LABEL_BYTES) + run.n_tokens * MASK_BYTES
    return {"blocks": blocks, "final_norm": norm, "loss": loss}


def lora_block_activations(model: Model, run: Pass, lora: LoRA, first: bool = False) -> dict[str, int]:
    """What a block with adapters keeps, by operation; the `first` block's input comes from a frozen embedding.

    A frozen product keeps nothing: only the gradient of its weights would ask for its input. But what is no product,
    attention, SiLU, the gate, the norms, keeps what it always does, since the gradient has to pass through.
    """
    require(model, "formula of activations with adapters", (BIASES, LOCAL))
    if run.recompute == "selective":
        raise NoFormula("no formula for adapters with selective recomputation: none or full")
    _adapted(model, lora)
    wanted, kept = _Wanted(lora.targets, stream=not first), block_activations(model, run)
    c, targets = run.number_bytes, lora.targets
    for norm, of_stream in (("attention_norm", wanted.stream), ("mlp_norm", wanted.middle)):
        if run.norm == "composed":  # the normalised input, which only the gradient of the norm's scale would ask for
            kept[norm] -= run.n_tokens * model.d_model * max(c, FP32_BYTES)
        if not of_stream:
            kept[norm] = 0
    if not wanted.attention:  # nothing but the input that the output projection's adapter may ask for
        kept["attention"] = run.n_tokens * c * model.q_width if "attn_output" in targets else 0
    asked = {
        "qkv": not {"attn_q", "attn_k", "attn_v"}.isdisjoint(targets),
        "gate_up": not {"ffn_gate", "ffn_up"}.isdisjoint(targets),
        "silu": wanted.gate,
        "gate_times_up": wanted.gate or wanted.up,
        "down": "ffn_down" in targets,
    }
    kept |= {name: 0 for name, there in asked.items() if not there}
    if wanted.gate != wanted.up:  # each is kept for the gradient of the other
        kept["gate_times_up"] //= 2
    kept["adapters"] = run.n_tokens * c * lora.rank * len(targets)
    if c != FP32_BYTES:  # the thin matrices are fp32, and used as copies in the format of the activations
        of_inputs = wanted.inputs()
        for name in targets:
            n_out, n_in = model.matrices()[name]
            kept["adapters"] += c * lora.rank * (n_out + (n_in if of_inputs[name] else 0))
    return kept


def finetuning_bytes(
    model: Model,
    run: Pass,
    lora: LoRA,
    n_labelled: int,
    base: str = "bf16",
    recipe: Recipe = FP32,
) -> dict[str, int]:
    """What fine-tuning with LoRA holds at its fullest moment, in bytes by part.

    That is when the loss is computed, or in the backward pass of the last block, where gradients of activations are
    alive, and with recomputation what the block keeps as well. Parts: ``weights``, ``adapters`` (with gradients and
    optimizer states), ``activations``, ``working`` (logits or gradients; with NF4 the matrix at hand, too, in 16 bits).

    Args:
        model: Llama-style; biases and windows change nothing.
        run: batch and choices of the pass; selective recomputation has no formula.
        lora: the adapters.
        n_labelled: positions that the loss asks for.
        base: format of the frozen weights; ``"nf4"`` is QLoRA's, with double quantisation, for a block's matrices (the
            rest stays bf16).
        recipe: of the adapters.

    Raises:
        NoFormula, BadLoRA, UnknownName: as the others here.
    """
    sizes = model.matrices().values()
    matrices, nf4 = model.n_layers * sum(map(prod, sizes)), base.lower() == "nf4"
    weights = model.n_params * (2 if nf4 else int(find_dtype(base).bytes))
    if nf4:
        weights -= 2 * matrices - round(matrices * NF4_BITS / 8)
    held = copies(n_trainable(model, lora), recipe, 2 * len(lora.targets) * model.n_layers)
    activations, working = max(lora_moments(model, run, lora, n_labelled).values(), key=sum)
    matrix = 2 * max(map(prod, sizes)) if nf4 else 0
    return {
        "weights": weights,
        "adapters": sum(held.values()),
        "activations": activations,
        "working": working + matrix,
    }


def lora_moments(model: Model, run: Pass, lora: LoRA, n_labelled: int) -> dict[str, tuple[int, int]]:
    """Bytes of activations, and of what is at work, at the two moments that may be the fullest.

    They are the loss, and the backward pass of the last block, with recomputation when all of it is there again.

    Raises:
        NoFormula, BadLoRA, UnknownName: as `lora_activations`.
    """
    c = run.number_bytes
    kept = lora_activations(model, run, lora, n_labelled)
    again = sum(lora_block_activations(model, run, lora).values()) if run.recompute == "full" else 0
    logits = n_labelled * model.vocab_size * (c if c == FP32_BYTES else c + FP32_BYTES)  # widened for the loss
    gradients = run.n_tokens * c * (3 * model.d_ff + 2 * model.d_model)  # in the MLP, and of the residual stream
    return {"loss": (sum(kept.values()) - again, logits), "last block": (kept["blocks"], gradients)}


class _Wanted:
    """Whose gradients are asked for in a block, followed from its input to its output.

    Attributes:
        stream, middle: of the residual stream before attention, and before the MLP.
        attention: of the queries, keys or values.
        gate, up: of the two that are multiplied.
    """

    def __init__(self, targets: Iterable[str], stream: bool):
        targets = set(targets)
        self.stream = stream
        self.attention = stream or not targets.isdisjoint({"attn_q", "attn_k", "attn_v"})
        self.middle = self.attention or "attn_output" in targets
        self.gate, self.up = (self.middle or name in targets for name in ("ffn_gate", "ffn_up"))

    def inputs(self) -> dict[str, bool]:
        """Whether a linear layer is asked for the gradient of its input."""
        of_input = dict.fromkeys(("attn_q", "attn_k", "attn_v"), self.stream) | {"attn_output": self.attention}
        return of_input | {"ffn_gate": self.middle, "ffn_up": self.middle, "ffn_down": self.gate or self.up}


def _adapted(model: Model, lora: LoRA) -> list[tuple[int, int]]:
    """Sizes of the adapted layers of a block, ``(n_out, n_in)``, checked."""
    chosen = {name: look_up(name, model.matrices(), "linear layer") for name in lora.targets}
    for name, (n_out, n_in) in chosen.items():
        if not 1 <= lora.rank <= min(n_in, n_out):
            raise BadLoRA(f"a rank of {lora.rank} does not fit {name}, {n_out} x {n_in}: 1 to {min(n_in, n_out)}")
    return list(chosen.values())
