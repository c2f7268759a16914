"""Exercises on fine-tuning with low-rank adapters (notebook 06)."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ...costs.lora import NF4_BITS, LoRA, n_trainable
from ...costs.memory import FP32, copies
from ...llm.lora import LoRALinear
from ...llm.training import UNLABELLED
from ...specs.architectures import Model
from ...specs.models import model
from ..grading import Exercise, Mistake

TALKS = [([5, 6, 7], [8, 9]), ([1], [2]), ([3, 1, 4, 1, 5], [9, 2, 6])]
# First a shape whose widths all differ, so that a mistake's ratio tells; its heads are wider than the residual stream.
SHAPES = [(12, 1024, 16, 4, 128, 8)] + [
    (m.n_layers, m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, rank)
    for m, rank in ((model("SmolLM2-135M"), 8), (model("Llama-3.1-8B"), 16))
]
RNG = np.random.default_rng(0)
LAYERS = [
    (RNG.normal(size=(n_out, n_in)), RNG.normal(size=(rank, n_in)), RNG.normal(size=(n_out, rank)), alpha)
    for n_out, n_in, rank, alpha in ((4, 6, 2, 16.0), (5, 3, 3, 8.0), (7, 7, 1, 3.0))
]
RUNS = [(256, 576, 1536, True), (256, 576, 1536, False), (1000, 4096, 1024, True)]
SIZES = [
    (6_738_415_616, 4_194_304, 16),
    (6_738_415_616, 159_907_840, NF4_BITS),
    (70_553_706_496, 207_093_760, 8),
]


def _targets(prompt, answer):
    return [UNLABELLED] * (len(prompt) - 1) + answer


def _adapter(n_layers, d_model, n_heads, n_kv_heads, head_dim, rank):
    made_up = Model("x", n_layers, d_model, n_heads, n_kv_heads, head_dim, 4 * d_model, 2, True, 1, 1e4, "made up")
    return n_trainable(made_up, LoRA(rank))


def _layer_flops(tokens, n_in, n_out, frozen):
    """Counted by PyTorch, on tensors without contents."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = torch.nn.Linear(n_in, n_out, bias=False).requires_grad_(not frozen)
        layer(torch.empty(tokens, n_in, requires_grad=True)).sum().backward()
    return counter.get_total_flops()


def _merged(weight, a, b, alpha):
    layer = LoRALinear(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False), a.shape[0], alpha)
    layer.A.data, layer.B.data = torch.tensor(a), torch.tensor(b)
    return weight + layer.change().numpy()


def _bytes(n_params, n_adapter, bits):
    return n_params * bits / 8 + sum(copies(n_adapter, FP32).values())


EXERCISES = [
    Exercise(
        name="targets_of",
        cases=TALKS,
        right=_targets,
        mistakes=[
            Mistake(
                "Shifted by one: a position is asked for the token *after* it, so the prompt's last is asked already.",
                lambda p, a: [UNLABELLED] * len(p) + a[:-1],
            ),
            Mistake(
                "One too many: the last token of all comes from nowhere to be asked; nothing follows it.",
                lambda p, a: [UNLABELLED] * len(p) + a,
            ),
            Mistake(
                "That trains the questions, too. They get -100: we want answers, not more questions.",
                lambda p, a: p[1:] + a,
            ),
            Mistake(
                "Too short: a target for each token that is read, len(prompt) + len(answer) - 1 of them.",
                lambda p, a: a,
            ),
            Mistake(
                "Too long: the answer's last token is never read, so nothing is asked there.",
                lambda p, a: [UNLABELLED] * (len(p) - 1) + a + [UNLABELLED],
            ),
            Mistake(
                "The token that is *read* at a position is no target; it is the one that comes next.",
                lambda p, a: [UNLABELLED] * (len(p) - 1) + p[-1:] + a[:-1],
            ),
        ],
    ),
    Exercise(
        name="adapter_parameters",
        cases=SHAPES,
        right=_adapter,
        mistakes=[
            Mistake(
                "Values come out of n_kv_heads heads, fewer than the queries.",
                lambda n, d, h, kv, hd, r: n * 2 * r * (d + h * hd),
            ),
            Mistake(
                "One layer's. There are n_layers of them.",
                lambda n, d, h, kv, hd, r: r * (2 * d + h * hd + kv * hd),
            ),
            Mistake(
                "Each adapter has two matrices: A with rank rows as wide as the input, and B with rank columns.",
                lambda n, d, h, kv, hd, r: n * r * (h * hd + kv * hd),
            ),
            Mistake(
                "Each adapter has its own A, even where both read the same.",
                lambda n, d, h, kv, hd, r: n * r * (d + h * hd + kv * hd),
            ),
            Mistake(
                "A head is head_dim numbers wide.",
                lambda n, d, h, kv, hd, r: n * r * (2 * d + h + kv),
            ),
            Mistake(
                "Those are the frozen matrices themselves.",
                lambda n, d, h, kv, hd, r: n * d * (h * hd + kv * hd),
            ),
            Mistake(
                "The heads together need not be as wide as d_model: n_heads * head_dim come out of the queries.",
                lambda n, d, h, kv, hd, r: n * r * (3 * d + kv * hd),
            ),
        ],
    ),
    Exercise(
        name="layer_flops",
        cases=RUNS,
        right=_layer_flops,
        mistakes=[
            Mistake(
                "A frozen layer still hands the gradient on to the layers before it: one product of two vanishes.",
                lambda t, i, o, frozen: (2 if frozen else 6) * t * i * o,
            ),
            Mistake(
                "Frozen or not, that is all three products. Which one does nobody ask for when the weights stay?",
                lambda t, i, o, frozen: 6 * t * i * o,
            ),
            Mistake(
                "A multiplication and an addition: two operations for each token and weight.",
                lambda t, i, o, frozen: (2 if frozen else 3) * t * i * o,
            ),
            Mistake(
                "That is the backward pass alone. The forward pass has a product, too.",
                lambda t, i, o, frozen: (2 if frozen else 4) * t * i * o,
            ),
        ],
    ),
    Exercise(
        name="merged",
        cases=LAYERS,
        right=_merged,
        rtol=1e-5,
        mistakes=[
            Mistake("The scale is alpha / rank, and the rank is A's number of rows.", lambda w, a, b, s: w + s * b @ a),
            Mistake("Without the scale, alpha / rank.", lambda w, a, b, s: w + b @ a),
            Mistake("That is the change alone: add it to the weight.", lambda w, a, b, s: s / len(a) * b @ a),
            Mistake("Upside down: alpha / rank, not rank / alpha.", lambda w, a, b, s: w + len(a) / s * b @ a),
            Mistake("The rank is A's number of rows, or B's of columns.", lambda w, a, b, s: w + s / len(b) * b @ a),
        ],
    ),
    Exercise(
        name="lora_bytes",
        cases=SIZES,
        right=_bytes,
        mistakes=[
            Mistake("Bits, not bytes: 8 of them are a byte.", lambda n, a, bits: n * bits + 16 * a),
            Mistake(
                "That trains everything. Frozen weights have no gradients and no means.",
                lambda n, a, bits: 16 * (n + a),
            ),
            Mistake(
                "The adapters' own gradients and AdamW's two means are missing: four numbers for each parameter.",
                lambda n, a, bits: n * bits / 8 + 4 * a,
            ),
            Mistake(
                "Four numbers for each of the adapters' parameters: itself, its gradient and two means.",
                lambda n, a, bits: n * bits / 8 + 12 * a,
            ),
            Mistake(
                "The adapters need four numbers of 4 bytes for each parameter, 16 bytes.",
                lambda n, a, bits: n * bits / 8 + 4 * a * bits / 8,
            ),
            Mistake("The frozen weights are in memory all the same.", lambda n, a, bits: 16 * a),
        ],
    ),
]
