"""Rows of measured speeds, and what `costs.speed` predicts for each: groups B (serving) and C (training)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from llmhw_helpers.costs import speed
from llmhw_helpers.costs.efficiency import FITTED
from llmhw_helpers.costs.flavours import weight_bytes
from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.parallelism import part
from llmhw_helpers.costs.training import flops_per_token
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.figures import Figure
from llmhw_helpers.specs.flavours import Flavour, flavour
from llmhw_helpers.specs.measured import Row
from llmhw_helpers.specs.models import model

NOT_HERE = Figure(None, "", "loss of quality", "not asked for here")
FLAVOURS = {
    "bf16": "bf16",
    "fp16": "fp16",
    "f16": "fp16",
    "fp8": "FP8 W8A8",
    "int8 w8a8": "INT8 W8A8",
    "int8": Flavour("int8, weights only", NOT_HERE, "gpt-fast, README", bits=8, scale_bits=16),
    "gptq int8": Flavour("GPTQ int8", NOT_HERE, "GPTQModel", bits=8, group=128, scale_bits=24),
    "int4": Flavour("int4, weights only", NOT_HERE, "gpt-fast, README: groups of 32", bits=4, group=32, scale_bits=32),
    "gptq int4": "GPTQ int4",
    "awq int4": "AWQ int4",
    "nf4": "NF4",
    "mxfp4": Flavour("MXFP4", NOT_HERE, "gpt-oss", bits=4, layout="MXFP4"),
}
PROGRAMS = (  # by what a row's software contains, the first that fits
    ("llama.cpp", "llama.cpp"),
    ("gpt-fast", "compiled"),
    ("tensorrt", "compiled"),
    ("vllm", "engine"),
    ("sglang", "engine"),
    ("bnb", "bitsandbytes"),
    ("transformers", "eager"),
    ("litgpt", "eager"),
    ("autoawq", "eager"),
)


# Megatron's models: layers, width, heads
GPTS = {"GPT-22B": (48, 6144, 64), "GPT-175B": (96, 12288, 96), "GPT-530B": (105, 20480, 128)}
# Of training, where a row does not say: tokens in a sequence, tokens in a micro-batch, micro-batches in a step, and the
# same for each stage of a pipeline.
USUAL_LENGTH, USUAL_TOKENS, USUAL_PARTS, PIPELINE_PARTS = 4096, 16384, 8, 8
MOST_USERS = 2048  # at once, where a row says "saturated": TensorRT-LLM's largest batch unless one asks for more


class NotPredicted(ValueError):
    """A row that lacks what a prediction asks for, or that is of another kind."""


@dataclass(frozen=True)
class Prediction:
    """A row with its range and what is likely, in the row's unit."""

    row: Row
    low: float
    high: float
    likely: float
    note: str


def predict(row: Row, fitted: Mapping[str, float] = FITTED) -> Prediction:
    """The range for a row of group B or C.

    Raises:
        NotPredicted, UnknownName, NoFormula, UnknownFigure, ...: all ValueErrors or LookupErrors, in one line.
    """
    if row.value is None:
        raise NotPredicted(f"{row.text!r} is no number")
    if row.quantity not in KINDS:
        raise NotPredicted(f"no prediction of {row.quantity}")
    return KINDS[row.quantity](row, fitted)


def rows(measured: Iterable[Row]) -> list[tuple[Row, float | None, float | None, float | None, str]]:
    """Each row with the predicted range, the measured value and a note; without a range, why there is none."""
    found = []
    for row in measured:
        try:
            each = predict(row)
            found.append((row, each.low, each.high, row.value, each.note))
        except (ValueError, LookupError) as error:
            found.append((row, None, None, row.value, f"not predicted: {error}"))
    return found


def _serving_arguments(row: Row, fitted: Mapping[str, float]) -> dict:
    return {
        "card": accelerator(_said(row, "gpu")),
        "model": _model(_said(row, "model")),
        "flavour": _flavour(_said(row, "dtype_quant")),
        "tp_size": row.tp_size or 1,
        "pp_size": row.pp_size or 1,
        "fitted": fitted,
        "nodes": row.nodes or 1,
        "program": _program(_said(row, "software")),
        "kv_dtype": "fp8_e4m3" if (row.dtype_quant, "tensorrt" in row.software.lower()) == ("fp8", True) else "bf16",
    }


def _said(row: Row, name: str) -> str:
    if getattr(row, name) in (None, "?", "unknown"):
        raise NotPredicted(f"{name} is not said")
    return getattr(row, name)


def _flavour(name: str) -> str | Flavour:
    if re.fullmatch(r"I?Q\d.*", name):
        return flavour(f"GGUF {name}")
    if name.lower() not in FLAVOURS:
        raise NotPredicted(f"unknown format {name!r}; known are {', '.join(FLAVOURS)}")
    return FLAVOURS[name.lower()]


def _program(software: str) -> str:
    for word, program in PROGRAMS:
        if word in software.lower():
            return program
    raise NotPredicted(f"no class of programs for {software!r}")


def _lengths(row: Row) -> tuple[int, int]:
    """Tokens of prompt and answer; where a row does not say, a short question with an answer of 256."""
    text = row.seq_len or ""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if re.match(r"tg ?\d", text):
        return 1, numbers[0]
    if re.match(r"pp ?\d", text):
        return numbers[0], 1
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    if len(numbers) == 1 and "out" in text:
        return 1, numbers[0]
    if len(numbers) == 1 and "prompt" in text:
        return numbers[0], 1
    if text:
        raise NotPredicted(f"lengths {text!r}")
    return 32, 256


def _decode(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt, answer = _lengths(row)
    arguments = _serving_arguments(row, fitted)
    if "includes prefill" in (row.other_inputs or "") or "/" in (row.seq_len or ""):
        return _prediction(row, speed.serving_speed(users=1, prompt=prompt, answer=answer, **arguments))
    return _prediction(row, speed.decode_speed(batch_size=1, context=prompt + (answer + 1) // 2, **arguments))


def _prefill(row: Row, fitted: Mapping[str, float]) -> Prediction:
    return _prediction(row, speed.prefill_speed(prompt=_lengths(row)[0], **_serving_arguments(row, fitted)))


def _first_token(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt = _lengths(row)[0]
    rate = speed.prefill_speed(prompt=prompt, **_serving_arguments(row, fitted))
    return _time(row, rate, prompt * (1e3 if row.unit == "ms" else 1))


def _batch(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt, answer = _lengths(row)
    arguments = _serving_arguments(row, fitted)
    try:
        users = int(float(row.util_or_batch))
    except (TypeError, ValueError):
        users = _saturated(arguments, prompt, answer)
    rate = speed.serving_speed(users=users, prompt=prompt, answer=answer, **arguments)
    n_gpus = arguments["tp_size"] * arguments["pp_size"]
    return _prediction(row, rate, 1 / n_gpus if "per GPU" in f"{row.unit} {row.other_inputs}" else 1)


def _saturated(arguments: dict, prompt: int, answer: int) -> int:
    """As many texts as nine tenths of the memory hold beside the weights, each half answered."""
    rank = part(arguments["model"], arguments["tp_size"])
    of = arguments["flavour"] if isinstance(arguments["flavour"], Flavour) else flavour(arguments["flavour"])
    room = 0.9 * arguments["card"].memory_bytes.known() - weight_bytes(rank, of)
    users = int(room / kv_bytes(rank, prompt + (answer + 1) // 2, arguments["kv_dtype"]))
    if users < 1:
        raise NotPredicted("not one text fits")
    return min(MOST_USERS, users)


def _training(row: Row, fitted: Mapping[str, float]) -> Prediction:
    run, n_gpus = _training_arguments(row, fitted), row.n_gpu or 1
    rate = speed.training_speed(**run)
    if "iteration" in (row.unit or ""):  # gradients of several micro-batches make one
        n_tokens = run["seq_len"] * run["batch_size"] * run["n_micro_batches"]
        return _time(row, rate, n_tokens)
    if "MFU" in row.unit or "FLOP" in row.unit:
        peak = run["card"].peak(run["dtype"]).known()
        flops = flops_per_token(run["model"], run["seq_len"])
        return _prediction(row, rate, flops / (peak / 100 if "MFU" in row.unit else 1e12))
    together = "total" in f"{row.unit} {row.other_inputs}"
    return _prediction(row, rate, n_gpus if together else 1)


def _training_arguments(row: Row, fitted: Mapping[str, float]) -> dict:
    said = row.other_inputs or ""
    if "ladder: baseline" in said:
        raise NotPredicted("texts are not packed, and their lengths are not said")
    if row.tp_size is None and (row.n_gpu or 1) > 1:
        raise NotPredicted("how the model is divided is not said")
    ranks = (row.tp_size or 1) * (row.pp_size or 1)
    sharded = re.search(r"FSDP|FULL_SHARD|ZeRO-3", row.dp_or_shard or "")
    seq_len = int(float(row.seq_len)) if row.seq_len else USUAL_LENGTH
    micro, accumulated = row.micro_batch, re.search(r"(?:grad accum|GA) ?(\d+)", said)
    if accumulated:
        n_micro_batches = int(accumulated[1])
    elif (row.pp_size or 1) > 1:  # the micro-batch of such a row is what the pipeline divides into parts
        n_micro_batches, micro = max(micro or 1, PIPELINE_PARTS * row.pp_size), 1
    else:
        n_micro_batches = 1 if micro else USUAL_PARTS
    return {
        "card": accelerator(_said(row, "gpu")),
        "model": _model(_said(row, "model")),
        "seq_len": seq_len,
        "dtype": "fp8_e4m3" if row.dtype_quant == "fp8" else "bf16",
        "recompute": _recomputed(row),
        "batch_size": micro or max(1, USUAL_TOKENS // seq_len),
        "dp_size": max(1, (row.n_gpu or 1) // ranks),
        "tp_size": row.tp_size or 1,
        "pp_size": row.pp_size or 1,
        "fitted": fitted,
        "zero": 3 if sharded else 1,
        "n_micro_batches": n_micro_batches,
        "nodes": row.nodes or 1,
        "lora": "lora" in row.quantity,
        "packed": "qlora" in row.quantity,
        "program": _trainer(_said(row, "software") if row.software else "torch"),
    }


def _recomputed(row: Row) -> str | float:
    """How much of the forward pass a tool computes again, by what the row says, else by the tool's habit."""
    said, tool = (row.other_inputs or "").lower(), (row.software or "").lower()
    if re.search(r"selective ac|per-op ac|default ac", said):
        return 0.5  # torchtitan: every second layer, or every second product
    if re.search(r"full ac|full recompute|checkpointing true", said):
        return "full"
    if "ladder" in said:
        return "none" if re.search(r"packed|\+compile|chunked", said) else "full"
    return "full" if re.search(r"torchtune|qwen finetune", tool) else "none"


def _trainer(software: str) -> str:
    if re.search(r"megatron|nemo", software.lower()):
        return "megatron"
    return "eager" if re.search(r"deepspeed|finetune|transformers|peft", software.lower()) else "torch"


def _model(name: str) -> Model:
    """By name, without what stands in brackets; Megatron's GPTs by the sizes in arXiv:2205.05198, table 3."""
    name = re.sub(r" *\(.*", "", name)
    if name not in GPTS:
        return model({"Llama-8B": "Llama-3.1-8B", "Llama-70B": "Llama-3.1-70B"}.get(name, name))
    n_layers, d_model, n_heads = GPTS[name]
    heads = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": d_model // n_heads}
    heads = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": d_model // n_heads}
    sizes = {"n_layers": n_layers, "d_model": d_model, "d_ff": 4 * d_model, "vocab_size": 51200}
    return replace(model("gpt2"), name=name, **sizes, **heads, context_length=2048)


def _prediction(row: Row, rate: speed.Speed, factor: float = 1) -> Prediction:
    return Prediction(row, factor * rate.low, factor * rate.high, factor * rate.likely, rate.share.basis)


def _time(row: Row, rate: speed.Speed, n_tokens: float) -> Prediction:
    return Prediction(row, n_tokens / rate.high, n_tokens / rate.low, n_tokens / rate.likely, rate.share.basis)


KINDS = {
    "decode_single_stream": _decode,
    "decode_single_stream_pipeline": _decode,
    "prefill": _prefill,
    "ttft": _first_token,
    "batch_throughput": _batch,
    **dict.fromkeys(("train_speed", "train_speed_lora", "train_speed_qlora", "train_mfu", "train_tflops"), _training),
    **dict.fromkeys(("train_step_time", "train_step_time_lora", "train_step_time_qlora"), _training),
}
