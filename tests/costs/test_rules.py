"""Rules of thumb: answers against sums by hand; the long ones in a process without the tests' type checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw_helpers.costs import rules
from llmhw_helpers.costs.efficiency import ETHERNET_SHARE, FITTED
from llmhw_helpers.specs.models import model


@pytest.fixture(scope="module")
def table():
    code = (
        "import json; from llmhw_helpers.costs.rules import rules; print(json.dumps([vars(each) for each in rules()]))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_rule_has_an_answer_with_numbers_and_a_source(table):
    assert len(table) == len(rules.RULES) == 8
    for each in table:
        assert each["holds"] in ("yes", "partly", "no")
        assert any(sign.isdigit() for sign in each["answer"])
        assert "Ultra-Scale Playbook" in each["source"]
        assert "\n" not in each["answer"] + each["since"]


def test_which_hold(table):
    """As computed when this was written: a change of a formula that turns one of them should be looked at."""
    assert [each["holds"] for each in table] == ["yes", "yes", "partly", "partly", "partly", "yes", "partly", "partly"]


def test_the_network_costs_tensor_parallelism_more_than_two_more_halvings():
    told = rules.tensor_parallelism_stays_in_a_node()
    assert told.holds == "yes"
    assert "on Alvis's A100" in told.answer


def test_bytes_between_two_nodes_by_hand():
    """70.55e9 parameters in 16 bits, 80 layers of 8192 numbers, 2^22 tokens; 64 micro-batches of 8 x 4096 on a node."""
    whole, stream = 2 * model("Llama-3.1-70B").n_params / 1e9, 2 * 2**22 * 8192 / 1e9
    answer = rules.stages_go_between_nodes().answer
    for n in (stream, whole, 3 * whole / 2 * 64, 4 * 80 * stream):
        assert f" {n:,.0f}" in answer


@pytest.mark.parametrize(
    ("card", "network", "n_adapters", "peak", "rate"),
    [
        ("A100-40GB", "EDR InfiniBand", 1, 312e12, FITTED["link, network"] * 12.5e9),
        ("A40", "25 Gbit Ethernet", 1, 149.7e12, ETHERNET_SHARE * 25e9 / 8),
        ("H100", "NDR InfiniBand", 8, 989e12, FITTED["link, board"] * 450e9),  # less than eight adapters
    ],
)
def test_tokens_that_hide_what_is_sent(card, network, n_adapters, peak, rate):
    """6 bytes of a parameter at that rate last as long as 6 operations for each token."""
    n = rules.hidden_tokens(card, network, n_adapters)
    assert 6 * n / (peak * FITTED["training products"]) == pytest.approx(6 / rate, rel=0.002)


def test_fused_attention_leaves_nothing_to_recompute():
    told = rules.recompute_selectively()
    assert "of fused attention's 0%" in told.answer
    assert told.holds == "partly"
