"""Group A of a table of measurements (vLLM's start-up logs) beside what `costs.serving_memory` says.

    python benchmarks/serving_rows.py [PATH]

The table has the columns of `specs/measured.csv`. Each row gives what it prints: weights, bytes of a token, the cache
(with the reserve that the log prints, and without), and whether it starts. What cannot be predicted says why.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.costs.serving_memory import ServingMemory, serving_memory
from llmhw_helpers.specs.accelerators import Accelerator, accelerator
from llmhw_helpers.specs.architectures import Model, NoFormula
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.measured import Row, measured_rows
from llmhw_helpers.specs.models import model

GIB = 2**30
REFUSED = (UnknownName, UnknownFigure, NoFormula, Indivisible, ValueError)
# what people write, and a card of that kind: its compute capability and size are what counts
CARDS = {"V100-32": "V100", "A100-40": "A100-40GB", "A100-80": "A100-80GB", "A6000 class": "RTX A6000"}
CARDS |= {"A6000": "RTX A6000", "V100-16": "V100-16GB"}
CARDS |= {"24GB class": "RTX 3090", "48GB class": "RTX A6000", "80GB class": "A100-80GB"}
UTILISATION = 0.9  # vLLM's own, where a row does not say it: for whether it starts, not for the cache
KV_FP8 = re.compile(r"(kv|cache)[^,;]*fp8|fp8[^,;]*(kv|cache)", re.IGNORECASE)
UNSAID_LENGTHS = (2048, 8192)  # of the longest text where a row does not say it, beside the model's own limit


@dataclass(frozen=True)
class Said:
    """One figure of a row: what was said of it, and what was measured."""

    row: Row
    what: str
    low: float
    usual: float
    high: float
    measured: float
    note: str = ""

    @property
    def inside(self) -> bool:
        """The measured figure lies in the range; for what follows by arithmetic, within 0.5%."""
        slack = 0.005 if self.low == self.high else 0.0
        return self.low * (1 - slack) <= self.measured <= self.high * (1 + slack)

    @property
    def error(self) -> float:
        """Of the usual value, relative."""
        return self.usual / self.measured - 1


def rows(table: Iterable[Row]) -> list[tuple[Row, float | None, float | None, float | None, str]]:
    """Each row of group A with a range for what it is about, what was measured, and a note.

    What it is about: the cache, in tokens or GiB, or for ``serve_start_fits`` whether it starts (1 or 0).
    """
    answers = []
    for row in table:
        found, refused = said(row)
        about = "starts" if row.quantity == "serve_start_fits" else "cache"
        main = next((each for each in found if each.what == about), None)
        if main is None:
            answers.append(
                (row, None, None, None, f"not predicted: {refused or 'the share of the memory is not said'}")
            )
        else:
            usual = f"usually {main.usual:.6g}; " if about == "cache" else ""
            answers.append((row, main.low, main.high, main.measured, usual + main.note))
    return answers


def said(row: Row) -> tuple[list[Said], str]:
    """All that can be said of a row, and why the rest cannot."""
    if row.group != "A" or not row.quantity.startswith(("serve_kv", "serve_start")):
        return [], "no start-up log"
    if "vllm" not in (row.software or "").lower():
        return [], f"the memory of {row.software} is not predicted here"
    if missing := [name for name in ("model", "dtype_quant") if not getattr(row, name)]:
        return [], f"{missing[0]} is not said"
    if row.model_kind == "multimodal":
        return [], "what reads images or sound has weights and a reserve of its own"
    try:
        return list(_figures(row)), ""
    except REFUSED as error:
        return [], str(error)


def _figures(row: Row) -> Iterator[Said]:
    guesses = _memories(row, None)
    first = guesses[0]
    if row.weights_gib:
        yield Said(row, "weights", *[first.weights / GIB] * 3, row.weights_gib)
    if row.kv_bytes_per_token_per_gpu:
        yield Said(row, "bytes per token", *[first.kv_bytes_per_token] * 3, row.kv_bytes_per_token_per_gpu)
    if row.activation_gib is not None and row.nontorch_gib is not None:
        printed = row.activation_gib + row.nontorch_gib
        yield from _cache(row, _memories(row, printed * GIB), "cache, reserve printed")
        reserves = [each.reserve for each in guesses]
        low, high = min(each.low for each in reserves), max(each.high for each in reserves)
        usual = _likely(guesses).reserve
        yield Said(row, "reserve", low / GIB, usual.usual / GIB, high / GIB, printed, usual.why)
    yield from _cache(row, guesses, "cache")
    if row.fits is not None:
        starts = {each.starts for each in guesses} if row.seq_len else {_starts_at_all(guesses)}
        low, high = float(starts == {"yes"}), float(starts != {"no"})
        likely = _likely(guesses)
        enough = likely.kv_tokens[1] >= (likely.max_model_len if row.seq_len else UNSAID_LENGTHS[0])
        yield Said(row, "starts", low, float(enough), high, float(row.fits), first.why)


def _cache(row: Row, guesses: list[ServingMemory], what: str) -> Iterator[Said]:
    if row.util_or_batch is None:
        return
    low, high = min(each.kv_tokens[0] for each in guesses), max(each.kv_tokens[2] for each in guesses)
    usual = _likely(guesses).kv_tokens[1]
    note = _likely(guesses).reserve.why
    if row.kv_tokens:
        yield Said(row, what, low, usual, high, row.kv_tokens, f"tokens; {note}")
    elif row.kv_gib is not None and row.kv_gib > 0:
        per_token = guesses[0].kv_bytes_per_token / GIB
        yield Said(row, what, low * per_token, usual * per_token, high * per_token, row.kv_gib, f"GiB; {note}")


def _likely(guesses: list[ServingMemory]) -> ServingMemory:
    """Of several lengths the model's own limit, which vLLM takes without a word, if that starts; else the next one."""
    return next((each for each in reversed(guesses) if each.starts != "no"), guesses[-1])


def _starts_at_all(guesses: list[ServingMemory]) -> str:
    """Where no length is said: whether there is room for a short text."""
    least, most = min(g.kv_tokens[0] for g in guesses), max(g.kv_tokens[2] for g in guesses)
    return "yes" if least >= UNSAID_LENGTHS[0] else "no" if most < UNSAID_LENGTHS[0] else "perhaps"


def _memories(row: Row, reserve_bytes: float | None) -> list[ServingMemory]:
    if row.tp_size is None and (row.n_gpu or 1) > 1:
        raise ValueError("how the GPUs divide the model is not said")
    served, flavour = _served(row)
    said_length = re.match(r"\d+", row.seq_len or "")
    lengths = [min(n, served.context_length) for n in UNSAID_LENGTHS] + [served.context_length]
    if said_length:
        lengths = [int(said_length[0])]
    return [
        serving_memory(
            served,
            _card(row),
            flavour,
            row.tp_size or 1,
            row.pp_size or 1,
            float(row.util_or_batch or UTILISATION),
            length,
            _setting(row, r"(?:MNBT|max_num_batched_tokens)\D{0,3}(\d+)"),
            _setting(row, r"max_num_seqs\D{0,3}(\d+)"),
            kv_dtype="fp8_e4m3" if KV_FP8.search(row.other_inputs or "") else "bf16",
            program=_program(row),
            memory_bytes=row.gpu_mem_reported_gib and row.gpu_mem_reported_gib * GIB,
            reserve_bytes=reserve_bytes,
        )
        for length in lengths
    ]


def _served(row: Row) -> tuple[Model, str]:
    """Model and flavour, without what a row adds to a name: "(14B)", "stage 0", a second name."""
    name = re.sub(r" \(.*\)| stage \d+", "", row.model).split("/")[0]
    found, flavour = model(name), row.dtype_quant
    if found.name == "Llama-3.1-405B" and flavour == "fp8":
        flavour = "FP8 FBGEMM"  # Meta's own files
        if _program(row) == "vLLM 0.5":  # whose first revision held each head of keys and values twice
            found = replace(found, n_kv_heads=16)
    return found, flavour


def _card(row: Row) -> Accelerator | float:
    name = re.sub(r" \(.*\)", "", row.gpu or "unknown")
    try:
        return accelerator(CARDS.get(name, name))
    except UnknownName:
        if row.gpu_mem_reported_gib is None:
            raise
        return row.gpu_mem_reported_gib * GIB


def _program(row: Row) -> str:
    found = re.search(r"vLLM ~?(\d+\.\d+)", row.software)
    if found:
        return f"vLLM {found[1]}"
    if "V0" in row.software:
        return "vLLM 0.6"
    return "vLLM 0.2" if "2023" in row.software else "vLLM"


def _setting(row: Row, pattern: str) -> int | None:
    found = re.search(pattern, row.other_inputs or "")
    return int(found[1]) if found else None


def report(table: Iterable[Row]) -> str:
    """Every figure of every row, and how near the predictions came."""
    lines, everything = [], []
    for row in table:
        if row.group != "A":
            continue
        found, refused = said(row)
        everything += found
        name = f"{row.id:6}{(row.model or '?')[:24]:25}{(row.dtype_quant or '?')[:10]:11}"
        if refused:
            lines.append(f"{name}not predicted: {refused[:90]}")
        for each in found:
            verdict = "" if each.inside else "  OUTSIDE"
            numbers = f"{each.low:12.6g}{each.usual:12.6g}{each.high:12.6g}{each.measured:12.6g}"
            off = f"{each.error:+8.1%}" if each.measured and each.what != "starts" else " " * 8
            lines.append(f"{name}{each.what:24}{numbers}{off}{verdict}  {each.note[:100]}")
    lines.append("")
    for what in ("weights", "bytes per token", "cache, reserve printed", "reserve", "cache"):
        some = [each for each in everything if each.what == what]
        errors = sorted(abs(each.error) for each in some)
        if errors:
            at_90 = errors[-(-9 * len(errors) // 10) - 1]
            inside = sum(each.inside for each in some)
            lines.append(
                f"{what:24}{len(some):3} rows: median error {median(errors):.2%}, nine in ten within {at_90:.1%},"
                f" {inside} inside"
            )
    starts = [each for each in everything if each.what == "starts"]
    right = sum(each.usual == each.measured for each in starts)
    perhaps = sum(each.low != each.high for each in starts)
    lines.append(f"{'starts or not':24}{len(starts):3} rows: {right} right by the usual value; {perhaps} perhaps")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(measured_rows(sys.argv[1] if len(sys.argv) > 1 else None)))
