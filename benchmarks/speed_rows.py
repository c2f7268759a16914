"""Rows of measured speeds, and what `costs.speed` predicts for each: groups B (serving) and C (training)."""

import math
import re
from collections.abc import Iterable, Mapping

from predictions import NotPredicted, Prediction, named, of_speed, of_time, said
from training_speed_rows import QUANTITIES, predict_training

from llmhw_helpers.costs import speed
from llmhw_helpers.costs.efficiency import FITTED
from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.parallelism import part
from llmhw_helpers.costs.weights import weight_bytes
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.flavours import Flavour, unmeasured
from llmhw_helpers.specs.measured import Row
from llmhw_helpers.specs.serving_flavours import serving_flavour

GPT_FAST = "gpt-fast, README: groups of 32"
INT4 = Flavour("int4 of gpt-fast", unmeasured(GPT_FAST), GPT_FAST, bits=4, group=32, scale_bits=32)
FLAVOURS = {  # by what a row's format contains, the first that fits
    "w8a8": "INT8 W8A8",
    "gptq int8": "INT8 W8A16",
    "gptq": "GPTQ int4",
    "awq": "AWQ int4",
    "w4a16": "GPTQ int4",
    "bnb int8": "LLM.int8()",
    "bnb": "bnb int4",
    "nf4": "NF4",
    "mxfp4": "MXFP4",
    "bf16": "bf16",
    "f16": "fp16",
    "fp16": "fp16",
    "int8": "INT8 W8A16",
    "int4": INT4,
}
PROGRAMS = (  # by what a row's software contains, the first that fits
    ("llama.cpp", "llama.cpp"),
    ("gpt-fast", "compiled"),
    ("tensorrt", "compiled"),
    ("vllm", "engine"),
    ("sglang", "engine"),
    ("lmdeploy", "engine"),
    ("tgi", "engine"),
    ("text-generation-inference", "engine"),
    ("ollama", "llama.cpp"),
    ("bnb", "bitsandbytes"),
    ("transformers", "eager"),
    ("litgpt", "eager"),
    ("autoawq", "eager"),
)

MOST_USERS = 2048  # at once, where a row says "saturated": TensorRT-LLM's largest batch unless one asks for more


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
        except (ValueError, LookupError, ArithmeticError) as error:
            found.append((row, None, None, row.value, f"not predicted: {error}"))
    return found


def _serving_arguments(row: Row, fitted: Mapping[str, float]) -> dict:
    return {
        "card": accelerator(said(row, "gpu")),
        "model": named(said(row, "model")),
        "flavour": _flavour(said(row, "dtype_quant")),
        "tp_size": row.tp_size or max(1, (row.n_gpu or 1) // (row.pp_size or 1)),
        "pp_size": row.pp_size or 1,
        "fitted": fitted,
        "nodes": row.nodes or 1,
        "program": _program(said(row, "software")),
        "kv_dtype": "fp8_e4m3" if (row.dtype_quant, "tensorrt" in row.software.lower()) == ("fp8", True) else "bf16",
    }


def _flavour(name: str) -> Flavour:
    if re.match(r"I?Q\d", name, re.IGNORECASE):
        return serving_flavour(f"GGUF {name.upper()}")
    if name.lower() == "fp8":
        return serving_flavour("FP8 W8A8")
    for word, of in FLAVOURS.items():
        if word in name.lower() and "/" not in name:
            return of if isinstance(of, Flavour) else serving_flavour(of)
    raise NotPredicted(f"unknown format {name!r}")


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
        return max(1, numbers[0]), numbers[1]
    if len(numbers) == 1 and "out" in text:
        return 1, numbers[0]
    if len(numbers) == 1 and ("prompt" in text or text.isdigit()):
        return numbers[0], 256
    if text:
        raise NotPredicted(f"unknown lengths {text!r}")
    return 32, 256


def _decode(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt, answer = _lengths(row)
    arguments = _serving_arguments(row, fitted)
    if "includes prefill" in (row.other_inputs or "") or "/" in (row.seq_len or ""):
        return of_speed(row, speed.serving_speed(users=1, prompt=prompt, answer=answer, **arguments))
    return of_speed(row, speed.decode_speed(batch_size=1, context=prompt + (answer + 1) // 2, **arguments))


def _prefill(row: Row, fitted: Mapping[str, float]) -> Prediction:
    return of_speed(row, speed.prefill_speed(prompt=_lengths(row)[0], **_serving_arguments(row, fitted)))


def _first_token(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt = _lengths(row)[0]
    rate = speed.prefill_speed(prompt=prompt, **_serving_arguments(row, fitted))
    return of_time(row, rate, prompt * (1e3 if row.unit == "ms" else 1))


def _batch(row: Row, fitted: Mapping[str, float]) -> Prediction:
    prompt, answer = _lengths(row)
    arguments = _serving_arguments(row, fitted)
    try:
        users = int(float(row.util_or_batch))
    except (TypeError, ValueError):
        users = _saturated(arguments, prompt, answer)
    rate = speed.serving_speed(users=users, prompt=prompt, answer=answer, **arguments)
    n_gpus = arguments["tp_size"] * arguments["pp_size"]
    return of_speed(row, rate, 1 / n_gpus if "per GPU" in f"{row.unit} {row.other_inputs}" else 1)


def _saturated(arguments: dict, prompt: int, answer: int) -> int:
    """As many texts as nine tenths of the memory hold beside the weights, each half answered."""
    rank = part(arguments["model"], arguments["tp_size"])
    room = 0.9 * arguments["card"].memory_bytes.known() - weight_bytes(rank, arguments["flavour"])
    users = int(room / kv_bytes(rank, prompt + (answer + 1) // 2, arguments["kv_dtype"]))
    if users < 1:
        raise NotPredicted("not one text fits")
    return min(MOST_USERS, users)


def _generation_peak(row: Row, fitted: Mapping[str, float]) -> Prediction:
    """Memory of `generate` in transformers: weights, cache, and what an MLP makes of the prompt, in GiB."""
    (prompt, answer), run = _lengths(row), _serving_arguments(row, fitted)
    each, number = run["model"], 2 * prompt  # bytes of one 16-bit number for every token of the prompt
    held = weight_bytes(each, run["flavour"]) + kv_bytes(each, prompt + answer)
    low, high = (held + number * (3 * each.d_ff + n * each.d_model) for n in (0, 6))
    return Prediction(row, low / 2**30, 1.03 * high / 2**30, high / 2**30, "weights, cache, the widest layer")


def _roof(row: Row, fitted: Mapping[str, float]) -> Prediction:
    """What a test program of its own reaches of a data sheet's figure."""
    card = accelerator(said(row, "gpu"))
    if row.quantity.startswith("roof_hbm"):
        low, high, unit, peak = 0.75, 0.95, 1e12, card.bytes_per_s.known()
    else:
        low, high, unit, peak = 0.55, 0.95, 1e12, card.peak(said(row, "dtype_quant")).known()
    return Prediction(
        row, low * peak / unit, high * peak / unit, math.sqrt(low * high) * peak / unit, "of the data sheet"
    )


KINDS = {
    "serve_memory_hf_transformers": _generation_peak,
    "roof_hbm_copy": _roof,
    "roof_hbm_triad": _roof,
    "roof_gemm_bf16_best": _roof,
    "decode_single_stream": _decode,
    "decode_single_stream_pipeline": _decode,
    "prefill": _prefill,
    "ttft": _first_token,
    "batch_throughput": _batch,
    **{f"{quantity}{kind}": predict_training for quantity in QUANTITIES for kind in ("", "_lora", "_qlora")},
}
