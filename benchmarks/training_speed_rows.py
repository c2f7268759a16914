"""Rows of measured training speeds, and what `costs.speed` predicts for each.

    python benchmarks/training_speed_rows.py

prints those on several nodes, the most GPUs first: how they were divided, the likely speed and its range, and what was
measured.
"""

import re
from collections.abc import Mapping

from predictions import NotPredicted, Prediction, named, of_speed, of_time, said

from llmhw_helpers.costs.durations import multiplied_in
from llmhw_helpers.costs.efficiency import FITTED
from llmhw_helpers.costs.speed import training_speed
from llmhw_helpers.costs.training import flops_per_token
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.flavours import flavour
from llmhw_helpers.specs.measured import Row, measured_rows

# Of training, where a row does not say: tokens in a sequence, tokens in a micro-batch, micro-batches in a step, and the
# same for each stage of a pipeline.
USUAL_LENGTH, USUAL_TOKENS, USUAL_PARTS, PIPELINE_PARTS = 4096, 16384, 8, 8
LARGE = 30e9  # memory of a card on which torchtune's recipes for one GPU recompute nothing
QUANTITIES = ("train_speed", "train_mfu", "train_tflops", "train_step_time")


def predict_training(row: Row, fitted: Mapping[str, float]) -> Prediction:
    """The range for a row of training or fine-tuning; raises as `speed_rows.predict`."""
    run, n_gpus = _training_arguments(row, fitted), row.n_gpu or 1
    rate = training_speed(**run)
    if row.unit == "s/iteration":  # gradients of several micro-batches make one
        return of_time(row, rate, run["seq_len"] * run["batch_size"] * run["n_micro_batches"])
    flops = flops_per_token(run["model"], run["seq_len"])
    # where a source leaves open whether a figure is of one GPU: of all, if one could not be as fast
    together = "unclear" in (row.other_inputs or "") and row.value > rate.floor
    factors = {
        "tok/s": n_gpus if together else 1,
        "tok/s/GPU": 1,
        "tok/s total": n_gpus,
        "% MFU": 100 * flops / run["card"].peak(run["dtype"]).known(),
        "TFLOP/s/GPU": flops / 1e12,
    }
    if row.unit not in factors:
        raise NotPredicted(f"unknown unit {row.unit!r}")
    return of_speed(row, rate, factors[row.unit])


def _training_arguments(row: Row, fitted: Mapping[str, float]) -> dict:
    notes = row.other_inputs or ""
    if "ladder: baseline" in notes:
        raise NotPredicted("texts are not packed, and their lengths are not said")
    if row.seq_len and not row.seq_len.isdigit():
        raise NotPredicted(f"unknown length {row.seq_len!r}")
    card, seq_len = accelerator(said(row, "gpu")), int(row.seq_len or USUAL_LENGTH)
    ranks = (row.tp_size or 1) * (row.pp_size or 1)
    sharded = re.search(r"FSDP|FULL_SHARD|ZeRO-3", row.dp_or_shard or "")
    if "DeepSpeed" in (row.software or "") and "lora" not in row.quantity:
        sharded = True  # Qwen's finetune_ds.sh takes ZeRO-3
    micro, accumulated = row.micro_batch, re.search(r"(?:grad accum|GA) ?(\d+)", notes)
    if accumulated:
        n_micro_batches = int(accumulated[1])
    elif (row.pp_size or 1) > 1:  # the micro-batch of such a row is what the pipeline divides into parts
        n_micro_batches, micro = max(micro or 1, PIPELINE_PARTS * row.pp_size), 1
    else:
        n_micro_batches = 1 if micro else USUAL_PARTS
    return {
        "card": card,
        "model": named(said(row, "model")),
        "seq_len": seq_len,
        "dtype": "fp8_e4m3" if row.dtype_quant == "fp8" else multiplied_in(card, flavour("bf16")),
        "recompute": _recomputed(row),
        "batch_size": micro or max(1, USUAL_TOKENS // seq_len),
        "dp_size": max(1, (row.n_gpu or 1) // ranks),
        "tp_size": row.tp_size or 1,
        "pp_size": row.pp_size or 1,
        "fitted": fitted,
        "zero": 3 if sharded else 1,
        "n_micro_batches": n_micro_batches,
        "n_chunks": int((re.search(r"VPP? ?(\d+)", notes) or [0, 1])[1]),  # Megatron's interleaved schedule
        "nodes": row.nodes or 1,
        "lora": "lora" in row.quantity,
        "packed": "qlora" in row.quantity,
        "program": _trainer(row.software or ""),
    }


def _recomputed(row: Row) -> str | float:
    """How much of the forward pass a tool computes again, by what the row says, else by the tool's habit."""
    notes, tool = (row.other_inputs or "").lower(), (row.software or "").lower()
    if re.search(r"selective ac|per-op ac|default ac", notes):
        return 0.5  # torchtitan: every second layer, or every second product
    if re.search(r"full ac|full recompute|checkpointing true", notes):
        return "full"
    if "ladder" in notes:
        return "none" if re.search(r"packed|\+compile|chunked", notes) else "full"
    if "torchtune" in tool and (row.n_gpu or 1) == 1 and accelerator(said(row, "gpu")).memory_bytes.known() > LARGE:
        return "none"  # as its tables' memory says (training_rows.py)
    return "full" if re.search(r"torchtune|qwen finetune", tool) else "none"


def _trainer(software: str) -> str:
    if re.search(r"megatron|nemo", software.lower()):
        return "megatron"
    return "eager" if re.search(r"deepspeed|finetune|transformers|peft", software.lower()) else "torch"


def over_nodes() -> list[Prediction]:
    """Published runs on several nodes that can be predicted, the most GPUs first."""
    rows = [row for row in measured_rows() if row.quantity in QUANTITIES and (row.nodes or 1) > 1]
    return [predict_training(row, FITTED) for row in sorted(rows, key=lambda row: -(row.n_gpu or 1))]


def main():
    runs = over_nodes()
    print(f"{'':5}{'model':16}{'GPUs':>6} {'':9}{'layout':22}{'likely':>8}{'range':>16}{'measured':>10}")
    for run in runs:
        row = run.row
        sizes = f"TP {row.tp_size or '?'}, PP {row.pp_size or '?'}, {row.dp_or_shard or ''}"
        inside = "" if run.low <= row.value <= run.high else "  outside"
        print(
            f"{row.id:5}{row.model:16.15}{row.n_gpu:6} {row.card_family:9}{sizes:22.21}{run.likely:8.4g}"
            f"{run.low:8.4g} to{run.high:5.4g}{row.value:10.4g} {row.unit}{inside}"
        )
    inside = sum(run.low <= run.row.value <= run.high for run in runs)
    print(f"{inside} of {len(runs)} inside")


if __name__ == "__main__":
    main()
