from dataclasses import replace

import pytest

from llmhw_helpers.costs.durations import Training
from llmhw_helpers.costs.efficiency import ETHERNET_SHARE, FITTED, all_reduce_seconds
from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.costs.speed import (
    decode_speed,
    joules_per_token,
    prefill_speed,
    price_per_token,
    serving_speed,
    training_speed,
)
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.figures import Figure, UnknownFigure, UnknownName
from llmhw_helpers.specs.links import link
from llmhw_helpers.specs.models import model

A100, H100 = accelerator("A100-80GB"), accelerator("H100")
LLAMA = model("Llama-3.1-8B")


KNOWN = [card for card in ACCELERATORS.values() if card.peak("fp16").value]


@pytest.mark.parametrize("card", KNOWN, ids=[card.name for card in KNOWN])
@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.1-70B", "Mixtral-8x7B", "DeepSeek-V3", "gpt-oss-20b"])
def test_a_range_lies_below_the_roof_and_is_no_wider_than_a_factor_of_two(card, name):
    each, dtype = model(name), "bf16" if "bf16" in card.dtypes else "fp16"
    for speed in (
        decode_speed(card, each),
        decode_speed(card, each, "INT8 W8A8", 32, 4096, tp_size=1, pp_size=2),
        prefill_speed(card, each, prompt=4096),
        serving_speed(card, each, "bf16", 16, 1000, 300),
        training_speed(card, each, 2048, dtype, "full"),
    ):
        assert 0 < speed.low < speed.high <= speed.floor
        assert speed.high / speed.low <= 2
        assert speed.share.high == pytest.approx(speed.high / speed.floor)


def test_a_rate_that_no_source_gives_is_needed_for_many_tokens_only():
    unknown = {name: replace(rate, value=None) for name, rate in A100.tensor_core.items()}
    card = replace(A100, tensor_core=unknown)
    assert decode_speed(card, LLAMA).seconds["products"] == 0
    assert decode_speed(card, LLAMA).floor == decode_speed(A100, LLAMA).floor
    with pytest.raises(UnknownFigure, match="unknown: bf16: dense peak"):
        prefill_speed(card, LLAMA)


def test_the_roof_of_a_decode_step_is_weights_and_cache_over_the_bandwidth():
    """By hand: Llama-3.1-8B in 16 bits without the input embedding, and 128 KiB for each of 1024 tokens."""
    n_bytes = 2 * (8_030_261_248 - 128_256 * 4096) + 1024 * 131_072
    assert decode_speed(A100, LLAMA, "bf16", 1, 1024).floor == pytest.approx(2039e9 / n_bytes)


def test_a_pipeline_speeds_up_several_texts_and_not_one():
    one, two = (decode_speed(A100, LLAMA, pp_size=n) for n in (1, 2))
    assert 0.95 * one.low < two.low < one.low
    # at 64 texts each of two stages works on 32 of them
    assert decode_speed(A100, LLAMA, batch_size=64, pp_size=2).low > 1.1 * decode_speed(A100, LLAMA, batch_size=64).low


def test_tensor_parallelism_speeds_up_less_than_it_costs():
    one, eight = (decode_speed(A100, model("Llama-3.1-70B"), tp_size=n).low for n in (1, 8))
    assert 3 * one < eight < 8 * one


def test_a_layer_has_two_all_reduces_and_in_training_four_or_six():
    """Of 8192 numbers of 2 bytes for each token (Megatron-LM, arXiv:1909.08053, figure 4)."""
    big, board = model("Llama-3.1-70B"), link("NVLink 3")
    step = decode_speed(A100, big, batch_size=16, tp_size=4).seconds
    assert step["all-reduces"] == pytest.approx(2 * 80 * all_reduce_seconds(16 * 8192 * 2, 4, board))
    one = 80 * all_reduce_seconds(4096 * 8192 * 2, 4, board)
    for way, n in (("none", 4), ("full", 6)):
        run = training_speed(A100, big, 4096, recompute=way, tp_size=4)
        # launches go on at the same time, and what they overlap with counts a little less
        assert run.seconds["all-reduces"] == pytest.approx(n * one, rel=0.1)


def test_ranks_on_several_nodes_wait_for_the_network():
    near, far = (decode_speed(A100, LLAMA, tp_size=4, nodes=n) for n in (1, 4))
    assert far.low < near.low / 2
    assert far.seconds["all-reduces"] > 10 * near.seconds["all-reduces"]


def test_fewer_bytes_are_faster_and_a_small_model_stays_farther_from_the_roof():
    wide, narrow = decode_speed(A100, LLAMA), decode_speed(A100, LLAMA, "AWQ int4")
    assert narrow.low > wide.low
    assert narrow.share.high < wide.share.high
    assert decode_speed(A100, model("SmolLM2-135M")).share.high < 0.3


def test_a_mixture_reads_the_experts_that_a_batch_needs():
    mixture = model("Mixtral-8x7B")
    one, many = (decode_speed(A100, mixture, batch_size=n, context=1).floor / n for n in (1, 64))
    # 2 of 8 experts for one text, all 8 for many
    assert one / many == pytest.approx(46.7 / 12.8, rel=0.02)


def test_served_users_share_what_the_card_gives():
    speeds = [serving_speed(A100, LLAMA, users=n, prompt=512, answer=256).low for n in (1, 8, 64)]
    assert speeds == sorted(speeds)
    assert speeds[2] / 64 < speeds[1] / 8 < speeds[0]


def test_a_longer_prompt_takes_longer_and_answers_come_at_a_lower_rate():
    short, long = (serving_speed(A100, LLAMA, users=8, prompt=n, answer=256) for n in (100, 8000))
    assert long.high < short.low


def test_what_is_recomputed_takes_a_quarter_of_the_speed_and_adapters_give_a_third():
    plain, again = (training_speed(A100, LLAMA, 2048, recompute=way).floor for way in ("none", "full"))
    assert again / plain == pytest.approx(3 / 4, rel=0.05)
    assert training_speed(A100, LLAMA, 2048, lora=True).floor / plain == pytest.approx(3 / 2, rel=0.05)


def test_a_bubble_is_as_long_as_its_share_of_the_micro_batches():
    run = training_speed(A100, LLAMA, 2048, pp_size=4, n_micro_batches=8)
    rest = sum(second for name, second in run.seconds.items() if name != "bubble")
    assert run.seconds["bubble"] == pytest.approx(rest * 3 / 8)


def test_weights_that_come_over_a_slow_network_hold_training_up():
    """By hand: of 8 GPUs on two nodes each gathers 7/8 of 16.06 GB twice and scatters as much, at 0.88 of 12.5 GB/s."""
    shared = {"batch_size": 4, "dp_size": 8, "nodes": 2}
    slow = training_speed(A100, LLAMA, 4096, network_bytes_per_s=12.5e9, **shared)
    assert slow.likely < 0.8 * training_speed(A100, LLAMA, 4096, **shared).likely
    alone = 3 * 7 / 8 * 16.06 / (FITTED["link, network"] * 12.5)
    assert 0.7 * alone < slow.seconds["weights"] < alone
    assert sum(slow.seconds.values()) > alone


def test_a_slower_kind_of_network_is_named_and_counts():
    """25 Gbit of Ethernet, of which 0.57 were reached, against 0.88 of as many bits over InfiniBand."""
    shared = {"batch_size": 4, "dp_size": 8, "nodes": 2, "network_bytes_per_s": 25e9 / 8}
    ethernet, other = (
        training_speed(A100, LLAMA, 4096, network=link(name), **shared).seconds["weights"]
        for name in ("25 Gbit Ethernet", "EDR InfiniBand")
    )
    assert ethernet / other == pytest.approx(FITTED["link, network"] / ETHERNET_SHARE, rel=0.1)


def test_what_each_stage_of_zero_sends():
    """Of P parameters in 16 bits, in 4 micro-batches: 1 sums gradients once (twice the bytes), 2 scatters them each
    time and gathers once, 3 gathers twice and scatters each time."""
    slow = {"dp_size": 8, "nodes": 8, "network_bytes_per_s": 1e9, "n_micro_batches": 4}
    sent = {zero: Training(A100, LLAMA, 2048, zero=zero, **slow)._weights() for zero in (0, 1, 2, 3)}
    once = 2 * LLAMA.n_params * 7 / 8 / (FITTED["link, network"] * 1e9)
    assert sent[0] == sent[1]
    expected = {1: 2 / 4 * once, 2: (1 + 1 / 4) * once, 3: 3 * once}
    assert {zero: sent[zero] for zero in expected} == pytest.approx(expected, rel=0.02)  # and some latency


def test_copies_within_a_node_do_not_send_over_the_network():
    """Stages are on nodes of their own: 2 copies of 4 ranks fill a node, and sum their gradients on its board."""
    node = {"dp_size": 2, "tp_size": 4, "zero": 1}
    near = Training(A100, LLAMA, 2048, pp_size=2, nodes=2, network_bytes_per_s=1e6, **node)._weights()
    assert near == Training(A100, LLAMA, 2048, pp_size=2, nodes=1, **node)._weights()
    assert Training(A100, LLAMA, 2048, pp_size=2, nodes=4, network_bytes_per_s=1e6, **node)._weights() > 100 * near


def test_many_ranks_wait_for_each_others_messages():
    """A ring of 1024 has 1023 messages in it, for each of 32 layers three times; of bytes hardly more than one of 8."""
    few, many = (Training(H100, LLAMA, 8192, dp_size=n, nodes=n // 8)._weights() for n in (16, 1024))
    assert many - few > 3 * 32 * (1023 - 15) * 2e-6


def test_tensor_parallelism_over_nodes_pays_for_the_network():
    """By hand: 16 ranks on two nodes of 8: 7/8 of the array in and out of a rank, and all of it out of a node."""
    inside, over = (Training(A100, LLAMA, 4096, tp_size=n, nodes=n // 8) for n in (8, 16))
    n_bytes = 2 * 4096 * 4096
    board = 2 * 7 / 8 * n_bytes / (FITTED["link, board"] * 300e9)
    assert inside._all_reduce(n_bytes) == pytest.approx(FITTED["all-reduce"] + board)
    between = n_bytes / (FITTED["link, network"] * 8 * 25e9) + 2 * 2.4e-6
    assert over._all_reduce(n_bytes) == pytest.approx(FITTED["all-reduce"] + board + between)


def test_a_stage_sends_what_lies_between_two_layers_there_and_back():
    """Two stages of 4 A100 on two nodes: four ranks share the network, and each sends a quarter."""
    job = Training(A100, LLAMA, 4096, tp_size=4, pp_size=2, nodes=2, network_bytes_per_s=12.5e9)
    n_bytes = 2 * 4096 * 4096
    assert job._stages(n_bytes) == pytest.approx(2 * (2.4e-6 + n_bytes / (FITTED["link, network"] * 12.5e9)))
    assert Training(A100, LLAMA, 4096, tp_size=4)._stages(n_bytes) == 0


def test_the_slowest_stage_sets_the_pace():
    """80 layers on 20 or 27 stages: some have four, or three; and of 4 stages the last one has the head, too."""
    big = model("Llama-2-70B")
    even, uneven = (training_speed(A100, big, 4096, pp_size=n, n_micro_batches=1000).seconds for n in (20, 27))
    assert even["memory"] / uneven["memory"] == pytest.approx(4 / 3, rel=0.02)  # not 27/20
    last = Training(A100, big, 4096, pp_size=4).micro_batch().parts["products"]
    whole = Training(A100, big, 4096).micro_batch().parts["products"]
    assert last > 1.01 * whole / 4


def test_an_interleaved_schedule_has_a_shorter_bubble():
    one, four = (training_speed(A100, LLAMA, 2048, pp_size=4, n_micro_batches=8, n_chunks=n).seconds for n in (1, 4))
    assert four["bubble"] == pytest.approx(one["bubble"] / 4, rel=0.01)


def test_energy_and_price_follow_from_the_speed():
    speed = decode_speed(A100, LLAMA)
    assert joules_per_token(speed, A100, 2) == pytest.approx((800 / speed.high, 800 / speed.low))
    cheap, dear = price_per_token(speed, Figure(3.6, "EUR", "GPU-hour", "a test"))
    assert (cheap, dear) == pytest.approx((0.001 / speed.high, 0.001 / speed.low))
    with pytest.raises(UnknownFigure, match="nobody says"):
        price_per_token(speed, Figure(None, "EUR", "GPU-hour", "nobody says"))


def test_what_cannot_be_is_refused_in_a_line():
    with pytest.raises(Indivisible, match="32 query heads"):
        decode_speed(A100, LLAMA, tp_size=3)
    with pytest.raises(UnknownName, match="unknown class of programs 'vllm'"):
        decode_speed(A100, LLAMA, program="vllm")
    with pytest.raises(ValueError, match="first of its text"):
        decode_speed(A100, LLAMA, context=0)
    with pytest.raises(Indivisible, match="32 layers do not make 33 stages"):
        decode_speed(A100, LLAMA, pp_size=33)
    with pytest.raises(ValueError, match="n_micro_batches is at least 1, not 0"):
        training_speed(A100, LLAMA, 2048, n_micro_batches=0)
    with pytest.raises(ValueError, match="ZeRO has the stages 0 to 3, not 4"):
        training_speed(A100, LLAMA, 2048, zero=4)
    with pytest.raises(UnknownName, match="unknown recomputation 'half'"):
        training_speed(A100, LLAMA, 2048, recompute="half")
