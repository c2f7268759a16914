"""The memory of serving, against what vLLM prints when it starts, and against its own parts."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.costs.serving_memory import BLOCK, serving_memory
from llmhw_helpers.costs.serving_ranks import kv_bytes_per_token, rank_part, rank_weights
from llmhw_helpers.costs.serving_reserve import block_bytes, engines, step
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.engines import ENGINES
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.measured import measured_rows
from llmhw_helpers.specs.models import MODELS, model
from llmhw_helpers.specs.serving_flavours import serving_flavour

GIB = 2**30
LATEST = ENGINES["vLLM 0.17"]
BF16 = serving_flavour("bf16")


@pytest.fixture(scope="module")
def rows():
    """The room that turns a row of a table into a prediction."""
    path = Path(__file__).parents[2] / "benchmarks" / "serving_rows.py"
    spec = importlib.util.spec_from_file_location("serving_rows", path)
    room = sys.modules["serving_rows"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(room)
    return room


@pytest.fixture(scope="module")
def logs(rows):
    """What is said of the rows of start-up logs, by what it is about."""
    found = {}
    for row in measured_rows():
        for each in rows.said(row)[0]:
            found.setdefault(each.what, []).append(each)
    return found


def within(figures, limit):
    """The share of figures whose usual value is off by no more than `limit`."""
    return sum(abs(each.error) <= limit for each in figures) / len(figures)


def test_weights_are_what_the_logs_print(logs):
    """Logs round to 0.01 GiB; bitsandbytes files of others leave some matrices in 16 bits (three rows)."""
    plain = [each for each in logs["weights"] if each.row.dtype_quant != "bnb int4"]
    assert len(plain) >= 30
    assert median(abs(each.error) for each in plain) < 0.001
    assert within(plain, 0.005) > 0.85
    assert within(plain, 0.012) == 1


def test_bytes_of_a_token_are_exact(logs):
    """But for a revision of Llama-3.1-405B that held each head of keys and values twice: the row has the later one."""
    wrong = [each.row.id for each in logs["bytes per token"] if each.usual != each.measured]
    assert wrong == ["A058"]


def test_nine_caches_in_ten_are_within_5_percent_where_the_reserve_is_printed(logs):
    figures = logs["cache, reserve printed"]
    assert len(figures) >= 20
    assert within(figures, 0.05) >= 0.9
    assert median(abs(each.error) for each in figures) < 0.0034  # the best public planner


def test_caches_that_are_predicted(logs):
    figures = logs["cache"]
    assert len(figures) >= 30
    assert within(figures, 0.15) > 0.8
    assert sum(each.inside for each in figures) / len(figures) > 0.8
    assert median(abs(each.error) for each in figures) < 0.02


def test_nineteen_in_twenty_start_or_do_not_as_it_is_said(logs):
    figures = logs["starts"]
    assert sum(each.usual == each.measured for each in figures) / len(figures) >= 0.95
    assert sum(each.low == each.high for each in figures) / len(figures) > 0.85  # and few are left at "perhaps"


@pytest.mark.parametrize(
    ("name", "activations"), [("Llama-3.1-8B", 4.76), ("Qwen3-0.6B", 5.56), ("Qwen3-32B", 5.64), ("gpt-oss-120b", 7.38)]
)
def test_the_sampler_decides_and_not_the_size_of_the_model(name, activations):
    """GiB that vLLM 0.11 prints on an H100, at 8192 tokens of 1024 texts."""
    each = model(name)
    said = 38 * 1024 * each.vocab_size + 4 * 8192 * each.d_model
    assert said / GIB == pytest.approx(activations, rel=0.005)
    assert block_bytes(each, 8192) < said


def test_a_long_text_in_one_step_makes_the_mlp_decide():
    """vLLM 0.6 on an RTX 3090 prints 2.07 and 2.99 GiB at 20,000 and 29,000 tokens."""
    for n_tokens, activations in ((20000, 2.07), (29000, 2.99)):
        assert block_bytes(model("Llama-3.1-8B"), n_tokens) / GIB == pytest.approx(activations, rel=0.006)


@pytest.mark.parametrize("name", MODELS)
def test_the_terms_add_up_to_the_budget(name):
    each = model(name)
    found = serving_memory(each, accelerator("H100"), reserve_bytes=GIB, memory_bytes=10**13, max_model_len=16)
    weights = rank_weights(rank_part(each), BF16, LATEST)
    left = found.budget[1] - found.weights - found.reserve.usual - found.kv_tokens[1] * found.kv_bytes_per_token
    assert found.weights == weights >= 2 * each.n_params
    assert 0 <= left < BLOCK * found.kv_bytes_per_token
    assert found.starts == "yes"


@pytest.mark.parametrize("name", ["Llama-3.1-70B", "gpt-oss-120b", "DeepSeek-V3", "Qwen3-235B-A22B"])
@pytest.mark.parametrize(("tp_size", "pp_size"), [(1, 2), (4, 1), (4, 4), (8, 2)])
def test_the_tightest_stage_decides(name, tp_size, pp_size):
    each, card = model(name), accelerator("H100")
    found = serving_memory(each, card, "int4", tp_size, pp_size, reserve_bytes=2 * GIB)
    room = []
    for stage in range(pp_size):
        rank = rank_part(each, tp_size, pp_size, stage)
        left = found.budget[1] - rank_weights(rank, serving_flavour("int4"), LATEST, 9.0) - 2 * GIB
        room.append(left // (BLOCK * kv_bytes_per_token(rank, "bf16", LATEST)) * BLOCK)
    assert found.kv_tokens[1] == max(0, min(room))
    assert found.stage == room.index(min(room))


def test_heads_latents_and_formats_of_the_cache():
    def per_token(name, tp_size=1, dtype="bf16", program="vLLM 0.11"):
        return serving_memory(model(name), 1e13, "bf16", tp_size, kv_dtype=dtype, program=program).kv_bytes_per_token

    assert [per_token("Llama-3.1-70B", n) for n in (1, 2, 8, 16)] == [327680, 163840, 40960, 40960]
    assert {per_token("DeepSeek-V3", n) for n in (1, 8)} == {70272}
    assert per_token("DeepSeek-V3", 8, program="vLLM 0.6") == 2 * 61 * 16 * 256 * 2
    assert per_token("Llama-3.1-8B", dtype="fp8_e4m3") == 65536
    assert per_token("gpt-oss-120b", 4) == 18432  # a log; its local layers are counted like the others
    with pytest.raises(Indivisible, match="28 query heads of Qwen2.5-7B do not divide among 8 ranks"):
        per_token("Qwen2.5-7B", 8)


def test_windows_make_room_for_more_texts():
    """vLLM 0.10 prints room for 284.25 texts of 16384 tokens, in a cache of 2,640,144 tokens."""
    card = accelerator("A100-80GB")
    found = serving_memory(
        model("gpt-oss-120b"), card, "mxfp4", 4, max_model_len=16384, max_batched_tokens=2048, program="vLLM 0.10"
    )
    printed = replace(found, kv_tokens=(2640144,) * 3)
    assert printed.texts(16384) == (161, 284)
    assert printed.texts(1) == (2640144 // 16,) * 2
    with pytest.raises(ValueError, match="at least one token"):
        printed.texts(0)


def test_steps_by_release_and_card():
    def tried(release, card, length=4096):
        found = step(ENGINES[f"vLLM {release}"], accelerator(card), length)
        return found.n_tokens, found.n_seqs

    assert tried("0.11", "H100") == (8192, 1024)
    assert tried("0.11", "A100-80GB") == tried("0.11", "A40") == (2048, 256)
    assert tried("0.6", "A100-80GB", 20000) == (20000, 256)  # a whole text in one step
    assert tried("0.6", "A100-80GB", 131072) == (2048, 256)  # and in chunks
    assert tried("0.5", "A100-80GB", 131072) == (512, 256)
    assert tried("0.6", "MI300X", 131072) == (131072, 256)
    assert tried("0.11", "MI300X", 131072) == (8192, 1024)


def test_releases():
    assert [each.name for each in engines("vLLM 0.8.5")] == ["vLLM 0.8"]
    assert engines("vllm v0.16.0", accelerator("T4")) == (ENGINES["vLLM 0.11"],)
    assert engines("vLLM 0.9", accelerator("V100")) == (ENGINES["vLLM 0.7"],)
    for wrong, line in (
        ("SGLang", "unknown serving program 'SGLang'"),
        ("vLLM new", "unknown release 'new'"),
        ("vLLM 0.1", "the first one known here is vLLM 0.2"),
    ):
        with pytest.raises(UnknownName, match=line):
            engines(wrong)


@pytest.mark.parametrize("name", ACCELERATORS)
def test_ranges_are_in_order_on_every_card_and_hold_every_release(name):
    card = accelerator(name)
    found = serving_memory(model("Llama-3.2-1B"), card, max_model_len=2048)
    assert found.kv_tokens[0] <= found.kv_tokens[1] <= found.kv_tokens[2]
    assert found.reserve.low <= found.reserve.usual <= found.reserve.high
    for release in ("0.9", "0.10", "0.11", "0.17"):
        one = serving_memory(model("Llama-3.2-1B"), card, max_model_len=2048, program=f"vLLM {release}")
        assert found.reserve.low <= one.reserve.low
        assert one.reserve.high <= found.reserve.high


def test_whether_it_starts_and_why():
    eight, card = model("Llama-3.1-8B"), accelerator("RTX 3090")
    assert serving_memory(eight, card, max_model_len=4096).starts == "yes"
    too_long = serving_memory(eight, card)
    assert too_long.starts == "no"
    assert too_long.why.startswith("no: room for ")
    assert too_long.why.endswith("and 131072 are asked for")
    assert serving_memory(eight, card, "fp32").kv_tokens == (0, 0, 0)
    least, _, most = serving_memory(eight, card, max_model_len=4096).kv_tokens
    between = serving_memory(eight, card, max_model_len=(least + most) // 2)
    assert between.starts == "perhaps"


def test_matrices_of_latent_attention_that_are_there_twice():
    rank, fp8 = rank_part(model("DeepSeek-V3"), 8), serving_flavour("fp8")
    twice = 2 * 61 * 512 * 16 * (128 + 128)
    table = 2 * 163840 * 64
    assert rank_weights(rank, BF16, LATEST) == 2 * rank.n_params + table
    without = replace(rank, context_length=1)
    assert rank_weights(without, fp8, LATEST) - rank_weights(without, fp8, ENGINES["vLLM 0.6"]) == twice


@pytest.mark.parametrize("wrong", [{"utilisation": 0}, {"utilisation": 1.1}, {"tp_size": 0}, {"max_model_len": 0}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is no share of the memory|are at least one"):
        serving_memory(model("Llama-3.1-8B"), accelerator("H100"), **wrong)


def test_a_row_that_says_too_little_is_listed_with_the_reason(rows):
    row = next(each for each in measured_rows() if each.id == "A004")
    for change, reason in (
        ({"model": None}, "model is not said"),
        ({"dtype_quant": "int5"}, "unknown flavour 'int5'"),
        ({"software": "SGLang 0.4"}, "the memory of SGLang 0.4 is not predicted here"),
        ({"model_kind": "multimodal"}, "what reads images or sound"),
        ({"gpu": "TPU", "gpu_mem_reported_gib": None}, "unknown accelerator 'TPU'"),
        ({"tp_size": None, "n_gpu": 8}, "how the GPUs divide the model is not said"),
        ({"tp_size": 3}, "32 query heads of Llama-3.1-8B do not divide among 3 ranks"),
        ({"util_or_batch": None}, "the share of the memory is not said"),
    ):
        [(_, low, high, measured, note)] = rows.rows([replace(row, **change)])
        assert (low, high, measured) == (None, None, None)
        assert note.startswith(f"not predicted: {reason}")
    [(_, low, high, measured, _)] = rows.rows([row])
    assert low <= measured <= high
