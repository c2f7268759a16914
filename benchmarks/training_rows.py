"""Rows of measured training memory, and what the package predicts for each: by tool and setting, never by row.

A tool decides what its figure means (allocated by PyTorch, reserved, or all that the card shows), which copies there
are, what is recomputed and how the loss is computed. Those rules stand here, each with where it comes from; the sizes
follow from the model. ``python -m benchmarks.training_rows [file.csv]`` prints the table.
"""

import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace

from llmhw_helpers.costs.activations import block_activations, block_kept
from llmhw_helpers.costs.flavours import weight_bytes
from llmhw_helpers.costs.lora import ALL_LINEAR, NF4_BITS, LoRA, n_trainable
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.parallelism import part
from llmhw_helpers.costs.training_memory import MIXED, SHARDED, Layout, rank_phases
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.flavours import flavour
from llmhw_helpers.specs.measured import Row, measured_rows
from llmhw_helpers.specs.models import model

QUANTITIES = ("train_memory", "train_memory_lora", "train_memory_qlora", "train_fits")
# Bytes a logit at the loss: 16-bit logits, an fp32 softmax and two gradients, or what is left of that where it is
# compiled to one kernel (logits and their gradient), or goes on 16 bits without a cast.
EAGER, COMPILED, HALF = 12, 4, 8
CONTEXT = 1.8e9  # CUDA, its libraries, NCCL and DeepSpeed's buffers: what nvidia-smi shows besides PyTorch's


class NotPredicted(ValueError):
    """A row that lacks what a prediction asks for, or that is of another kind."""


def predict(row: Row) -> tuple[float, float, str]:
    """Bytes on the fullest GPU, lowest and highest, and in words what was assumed.

    Raises:
        NotPredicted: with the reason.
    """
    for tool, rule in RULES.items():
        if tool in (row.software or ""):
            return rule(row)
    raise NotPredicted(f"no rule for {row.software or 'a row without software'}")


def rows(measured: Iterable[Row]) -> list[tuple[Row, float | None, float | None, float | bool, str]]:
    """Each row of training memory with the prediction (bytes a GPU, low and high), what was measured, and a note."""
    found = []
    for row in measured:
        if row.quantity in QUANTITIES:
            try:
                low, high, note = predict(row)
            except (ValueError, UnknownName) as reason:  # also what the package refuses
                low = high = None
                note = f"not predicted: {reason}"
            found.append((row, low, high, row.fits if row.quantity == "train_fits" else _bytes(row), note))
    return found


def _bytes(row: Row) -> float:
    """What was measured, a GPU."""
    over = re.search(r"over (\d+) GPUs", row.unit)
    return row.value * (2**30 if row.unit.startswith("GiB") else 1e9) / (int(over[1]) if over else 1)


def _spec(row: Row) -> Model:
    return model(row.model)


def _run(row: Row, **how) -> Pass:
    if not row.seq_len or not row.micro_batch:
        raise NotPredicted("the length of a sequence or the micro-batch is not given")
    return Pass(int(row.micro_batch), int(row.seq_len), **how)


def _torchtitan(row: Row) -> tuple[float, float, str]:
    """FSDP2, fp32 shares, bf16 gathered; the log prints what PyTorch reserved.

    Losses were compiled with the rest in 2025 and not before (train.py); "selective AC" is per operation by default
    (llama3_8b.toml): every second product is kept, attention, and each block's input. Context parallelism divides the
    tokens of a sequence, and its ranks share parameters as data-parallel ones do. A pipeline cuts a local batch into as
    many micro-batches as it has stages (its default).
    """
    spec, inputs = _spec(row), row.other_inputs or ""
    tp_size, pp_size = int(row.tp_size or 1), int(row.pp_size or 1)
    cp = int((re.search(r"CP(\d+)", row.dp_or_shard or "") or [0, 1])[1])
    run = _run(row, recompute="full")
    n_micro_batches = min(run.batch_size, pp_size)
    run = replace(run, batch_size=run.batch_size // n_micro_batches, seq_len=run.seq_len // cp)
    layout = Layout(
        dp_size=row.n_gpu // tp_size // pp_size,
        tp_size=tp_size,
        pp_size=pp_size,
        zero=3,
        n_micro_batches=n_micro_batches,
    )
    per_logit = COMPILED if "compile" in inputs and "2025" in row.software else EAGER
    stages = {0, pp_size // 2, pp_size - 1}
    allocated = max(_sharded(spec, run, layout, stage, inputs, per_logit) for stage in stages)
    return 1.03 * allocated, 1.21 * allocated, f"reserved is 3 to 21% above allocated; {per_logit} bytes a logit"


def _sharded(spec: Model, run: Pass, layout: Layout, stage: int, inputs: str, per_logit: int) -> float:
    forward, backward, step = rank_phases(spec, run, SHARDED, layout, stage)
    mine = part(spec, layout.tp_size, layout.pp_size, stage)
    if "full AC" in inputs or "AC" not in inputs:
        extra = 0
    elif "per layer" in inputs:  # every second block is recomputed
        plain = replace(run, recompute="none", norm="fused")
        extra = mine.n_layers // 2 * (block_kept(mine, plain) - block_kept(mine, run))
    else:
        saved = 2 * mine.q_width + mine.kv_width + mine.d_ff + mine.d_model // layout.tp_size
        extra = mine.n_layers * run.n_tokens * (2 * saved + 4 * mine.n_heads)
    if stage < layout.pp_size - 1:
        return max(backward.bytes + layout.in_flight(stage) * extra, step.bytes)
    logits = run.n_tokens * mine.vocab_size
    at_loss = forward.bytes - forward.parts["working"] - 4 * logits + per_logit * logits + extra
    if layout.pp_size > 1:  # a stage of torch.distributed.pipelining holds the logits of all micro-batches
        at_loss += 2 * logits * layout.n_micro_batches
    others = backward.bytes if per_logit == EAGER and not extra else 0
    return max(at_loss, others, step.bytes)


# torchtune's README of release 0.5 goes up a ladder: each rung adds a measure to those before it; adapters stand on all
LADDER = ("baseline", "packed", "compile", "chunked", "checkpointing", "backward", "offloading", "8-bit")
UNPACKED = 256  # tokens: a text of Alpaca has a few hundred


def _torchtune(row: Row) -> tuple[float, float, str]:
    """All in bf16 and updated by one kernel; the figures lie at what is allocated, or a little above.

    From release 0.3 on the loss goes over eight chunks of bf16 logits, compiled. Its tables of single GPUs update in
    the backward pass, with 8-bit states that are paged out to the CPU (8B_full_single_device.yaml); they recompute on
    24 GB, and on a card of twice that need not. Adapters of rank 8 are beside queries and values.
    """
    if row.software.startswith("torchtune 0.1"):
        return _torchtune_first(row)
    spec, inputs, n_gpu = _spec(row), row.other_inputs or "", int(row.n_gpu or 1)
    run, rung = _run(row), inputs.partition("ladder: ")[2]
    height = next((i for i, measure in enumerate(LADDER) if measure in rung), len(LADDER))
    if height == 0:
        run = replace(run, seq_len=UNPACKED)
    on_large_card = not rung and n_gpu == 1 and _card_gib(row) > 30
    recomputes = height >= 4 and not on_large_card
    adapters = row.quantity != "train_memory"
    whole = 2 * run.n_tokens * spec.d_model if recomputes else _compiled_kept(spec, run, adapters)
    kept = 0 if rung and height >= 6 else spec.n_layers * whole
    logits = run.n_tokens * spec.vocab_size
    at_loss = kept + logits * (2 + 2 / 8 if height >= 3 else COMPILED if height == 2 else EAGER)
    around, block = _around_and_block(spec)
    head = 0 if adapters else 2 * spec.vocab_size * spec.d_model
    at_loss += 2 * head  # its gradient of this chunk, and the sum of those before
    if n_gpu > 1:
        number = NF4_BITS / 8 if "qlora" in row.quantity else 2  # as it is gathered: a block, and the next
        at_loss = 2 * around + max(at_loss, 2 * number * block + kept + head)
    if adapters:
        base = flavour("NF4" if "qlora" in row.quantity else "bf16")
        return _torchtunes(weight_bytes(spec, base) / n_gpu + at_loss, "adapters")
    if "CPU offload" in inputs:
        return _torchtunes(max(at_loss, 4 * (around + block)), "parameters, gradients and states lie in the CPU's")
    copy = 2 * spec.n_params / n_gpu
    states = 0 if not rung and n_gpu == 1 else copy if height >= 7 else 2 * copy
    if height >= 5 and n_gpu == 1:
        return _torchtunes(copy + states + at_loss, "each gradient used at once")
    return _torchtunes(copy + states + max(at_loss, copy + head), "bf16 throughout")


def _torchtunes(allocated: float, note: str) -> tuple[float, float, str]:
    return allocated, 1.08 * allocated, note


def _torchtune_first(row: Row) -> tuple[float, float, str]:
    """Release 0.1: nothing compiled, logits in fp32 and copied when they are shifted: 22 bytes each at the loss."""
    spec, run, n_gpu = _spec(row), _run(row), int(row.n_gpu or 1)
    around, block = _around_and_block(spec)
    kept = 2 * spec.n_layers * run.n_tokens * spec.d_model + 22 * run.n_tokens * spec.vocab_size
    kept += 2 * around + 4 * block if n_gpu > 1 else 0
    base = weight_bytes(spec, flavour("NF4" if "qlora" in row.quantity else "bf16"))
    copies = 4 if row.quantity == "train_memory" else 1  # parameters, gradients and two states
    return _torchtunes(copies * base / n_gpu + kept, "logits in fp32, 22 bytes each")


def _compiled_kept(spec: Model, run: Pass, adapters: bool) -> int:
    """A compiled block's activations: SiLU's result is made again, what a product reads is kept where that learns."""
    h, inner = spec.d_model, 2 * spec.q_width + 2 * spec.kv_width
    numbers = 3 * h + inner + 2 * spec.d_ff if adapters else 4 * h + inner + 3 * spec.d_ff
    return run.n_tokens * (2 * numbers + 4 * spec.n_heads)


def _around_and_block(spec: Model) -> tuple[int, int]:
    parts = spec.parameters()
    around = parts["embedding"] + parts.get("head", 0)
    return around, (spec.n_params - around) // spec.n_layers


def _card_gib(row: Row) -> float:
    return accelerator(row.gpu).memory_bytes.known() / 2**30


def _qwen(row: Row) -> tuple[float, float, str]:
    """finetune.py of QwenLM/Qwen: transformers and DeepSpeed, blocks recomputed, all that nvidia-smi shows.

    Adapters of rank 64 beside all matrices, 16 bytes a parameter. bf16 runs cast the loss to fp32; with GPTQ weights
    all is fp16. ZeRO 3 gathers the embedding and the head, and keeps 1e9 parameters alive (DeepSpeed's default).
    """
    spec, run, n_gpu = _spec(row), _run(row), int(row.n_gpu or 1)
    quantised = "qlora" in row.quantity
    per_token = 2 * spec.n_layers * spec.d_model + (HALF if quantised else EAGER) * spec.vocab_size
    around, block = _around_and_block(spec)
    gathered = 2 * (around + max(1e9, 2 * block)) if "ZeRO-3" in (row.dp_or_shard or "") else 0
    if row.quantity == "train_memory":
        copies = (2 + 14 / n_gpu) * spec.n_params  # ZeRO 2
    else:
        copies = weight_bytes(spec, flavour("GPTQ int4" if quantised else "bf16")) / n_gpu
        copies += 16 * n_trainable(spec, LoRA(64, ALL_LINEAR)) / n_gpu
        copies += 8 * around / n_gpu if "emb" in (row.other_inputs or "") else 0  # bf16: a copy, a gradient, two states
    allocated = copies + gathered + run.n_tokens * per_token + CONTEXT
    return allocated, 1.1 * allocated, "with CUDA's and DeepSpeed's own"


def _litgpt(row: Row) -> tuple[float, float, str]:
    """Allocated, in GB: eager, norms composed, no recomputation; adapters of rank 8 beside queries and values.

    Several GPUs recompute each block, and are fullest when each has loaded the whole model and makes its share.
    """
    if "mixed" in (row.dtype_quant or ""):
        raise NotPredicted("autocast keeps cast weights for some operations: no formula")
    spec, run, n_gpu = _spec(row), _run(row, norm="composed"), int(row.n_gpu or 1)
    around, block = _around_and_block(spec)
    if n_gpu > 1:
        return _exact(2 * spec.n_params * (1 + 1 / n_gpu) + 2 * (around + 2 * block), "while the model is loaded")
    quantised = "nf4" in (row.dtype_quant or "")
    plain = replace(spec, activation="silu", further=())  # another function keeps as much; scales keep nothing
    kept = spec.n_layers * _adapted_kept(plain, run, quantised)
    weights = 2 * spec.n_params
    if quantised:
        matrices = block * spec.n_layers
        weights -= round(matrices * (2 - (0.516 if "dq" in row.dtype_quant else 0.5625)))
    at_loss = run.n_tokens * spec.vocab_size * (2 + 4)  # chunks of 128 tokens: bf16 logits and the softmax of each
    of_adapters = 16 * n_trainable(plain, LoRA(8))
    return _exact(weights + of_adapters + kept + at_loss, "as PyTorch allocates")


def _exact(allocated: float, note: str) -> tuple[float, float, str]:
    return 0.98 * allocated, 1.06 * allocated, note


def _adapted_kept(spec: Model, run: Pass, keeps_inputs: bool) -> int:
    """A block's activations beside adapters on queries and values, with dropout: its mask, and what passed.

    Frozen products keep nothing, but 4-bit ones keep their input though nobody asks for it (bitsandbytes 0.41).
    """
    kept = block_activations(spec, run)
    if not keeps_inputs:
        kept = {name: n for name, n in kept.items() if name not in ("qkv", "gate_up", "down")}
    return sum(kept.values()) + 3 * run.n_tokens * spec.d_model


def _paddle(row: Row) -> tuple[float, float, str]:
    """Sharding stage 2 beside a whole bf16 copy, no recomputation, eager; what the card shows."""
    spec, run = _spec(row), _run(row)
    tp_size = int(row.tp_size or 1)
    layout = Layout(dp_size=row.n_gpu // tp_size, tp_size=tp_size, zero=2, sequence_parallel=False)
    allocated = max(phase.bytes for phase in rank_phases(spec, run, MIXED, layout)) + CONTEXT
    return allocated, 1.1 * allocated, "with CUDA's own"


RULES = {
    "torchtitan": _torchtitan,
    "torchtune": _torchtune,
    "Qwen finetune.py": _qwen,
    "litgpt": _litgpt,
    "PaddlePaddle": _paddle,
}


def table(found: list) -> str:
    """Row by row: prediction, measured, how far the middle of the prediction lies off; and a line that sums up."""
    lines, off = [], []
    for row, low, high, value, note in found:
        head = f"{row.id:6} {row.quantity:18} {row.model:15} {row.software or '':26.26}"
        if low is None:
            lines.append(f"{head} {note}")
        elif row.quantity == "train_fits":
            fits = high < _card_gib(row) * 2**30, low < _card_gib(row) * 2**30
            said = "yes" if all(fits) else "perhaps" if any(fits) else "no"
            lines.append(f"{head} {low / 1e9:6.1f} to {high / 1e9:6.1f} GB: {said}, was {'yes' if value else 'no'}")
        else:
            off.append((low + high) / 2 / value - 1)
            lines.append(
                f"{head} {low / 1e9:6.1f} to {high / 1e9:6.1f}, was {value / 1e9:6.1f} GB {off[-1]:+.1%}; {note}"
            )
    within = sum(abs(each) <= 0.1 for each in off)
    if off:
        lines.append(f"{within} of {len(off)} within 10%, median {statistics.median(map(abs, off)):.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows(measured_rows(*sys.argv[1:2]))))
