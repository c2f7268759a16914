"""The table of layouts: every division once, memory and time by the rooms that know them, and why not."""

import pytest

from llmhw_helpers.costs.layouts import FRAGMENTS, Row, layouts, network_note
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.places import offers
from llmhw_helpers.costs.planner import answer
from llmhw_helpers.costs.speed import training_speed
from llmhw_helpers.costs.training_memory import MIXED, SHARDED, Layout, rank_peak
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.links import link
from llmhw_helpers.specs.models import model

BATCH = 2**17
PLACES = ["Alvis A100-40GB", "Alvis A40", "Arrhenius GH200"]


@pytest.fixture(scope="module")
def tables():
    """By place, of 8 billion parameters on four nodes of four GPUs; small steps, as there is less to try."""
    return {where: layouts("Llama-3.1-8B", where, 16, batch_tokens=BATCH) for where in PLACES}


def sizes(row):
    return row.layout.dp_size, row.layout.tp_size, row.layout.pp_size


def test_every_layout_is_there_once_and_the_fastest_first(tables):
    products = {(d, t, p) for d in range(1, 17) for t in range(1, 17) for p in range(1, 17) if d * t * p == 16}
    for rows in tables.values():
        assert sorted(map(sizes, rows)) == sorted(products)
        times = [row.seconds for row in rows if not row.refused]
        assert times == sorted(times)
        assert all(row.refused for row in rows[len(times) :])


def test_a_row_has_memory_and_time_or_a_reason(tables):
    for row in (row for rows in tables.values() for row in rows):
        if row.refused:
            assert (row.seconds, row.parts, row.speed) == (None, None, None)
            assert row.memory is None or row.memory.fits == "no"
            assert "\n" not in row.refused
        else:
            assert row.memory.fits in ("yes", "perhaps")
            assert row.low < row.seconds < row.high
            assert sum(row.parts.values()) == pytest.approx(row.seconds)


@pytest.mark.parametrize("where", PLACES)
def test_memory_is_that_of_the_fullest_rank(tables, where):
    for row in tables[where][:4]:
        run = Pass(row.batch_size, 4096, recompute=row.recompute)
        top = rank_peak(model("Llama-3.1-8B"), run, SHARDED if row.layout.zero == 3 else MIXED, row.layout)
        assert sum(row.memory.parts.values()) == top.bytes
        assert row.memory.reserve[1] == 1.5e9 + FRAGMENTS * row.memory.limit


def test_time_is_that_of_training_on_the_clusters_own_network(tables):
    """By `training_speed`: 4 A100 a node, one adapter of 100 Gbit for all four."""
    row = next(row for row in tables["Alvis A100-40GB"] if sizes(row) == (4, 4, 1))
    speed = training_speed(
        accelerator("A100-40GB"),
        model("Llama-3.1-8B"),
        4096,
        recompute=row.recompute,
        batch_size=row.batch_size,
        dp_size=4,
        tp_size=4,
        zero=row.layout.zero,
        n_micro_batches=row.layout.n_micro_batches,
        nodes=4,
        network=link("EDR InfiniBand"),
        network_bytes_per_s=12.5e9,
    )
    done = 4 * row.layout.n_micro_batches * row.batch_size * 4096
    assert done == BATCH
    assert row.seconds == pytest.approx(done / 16 / speed.likely)


def test_slower_networks_want_other_layouts(tables):
    """Copies that gather their weights over the network fall behind with its rate, stages and copies hardly do."""
    sharded = {where: next(row for row in tables[where] if sizes(row) == (16, 1, 1)) for where in PLACES}
    a100, a40, gh200 = (sharded[where].seconds / tables[where][0].seconds for where in PLACES)
    assert all(rows[0].layout.tp_size <= 4 for rows in tables.values())  # never over nodes
    assert a40 > a100 > gh200 == 1


def test_tensor_parallelism_over_nodes_is_slower_than_within(tables):
    rows = {sizes(row): row for row in tables["Alvis A100-40GB"]}
    assert rows[2, 8, 1].seconds > 2 * rows[4, 4, 1].seconds


def test_why_not():
    small = layouts("SmolLM2-135M", "4 x A40", 4)
    assert "9 query heads of SmolLM2-135M do not divide among 2 ranks" in {row.refused for row in small}
    tight = {sizes(row): row.refused for row in layouts("Llama-3.1-8B", "8 x RTX 3090", 8, 2048, 2**15)}
    assert tight[4, 1, 2] == "what it holds all the time is more than the 25.3 GB of a GPU"
    assert "MB more than the 25.3 GB of a GPU, most of it optimizer" in tight[1, 1, 8]
    many = {sizes(row): row.refused for row in layouts("Llama-3.1-8B", "Alvis A40", 8, 512, 2048)}
    assert many[8, 1, 1].startswith("4 sequences of a step are too few")
    deep = {sizes(row): row.refused for row in layouts("SmolLM2-135M", "Alvis A40", 64, 2048, 2**12)}
    assert deep[1, 1, 64] == "30 layers do not make 64 stages"


def test_one_gpu_has_one_layout():
    (row,) = layouts("Llama-3.2-1B", "A100-80GB", 1, 1024, 2**12)
    assert (sizes(row), row.layout.zero, row.name) == ((1, 1, 1), 0, "one GPU")


def test_an_offer_and_a_model_do_as_well_as_names():
    said = layouts("Llama-3.2-1B", "Alvis A40", 2, 1024, 2**12)
    assert layouts(model("Llama-3.2-1B"), offers("Alvis A40")[0], 2, 1024, 2**12) == said


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("Llama-9", "Alvis A40", 8), UnknownName, "unknown model"),
        (("Llama-3.1-8B", "Alvis A41", 8), UnknownName, "did you mean A40"),
        (("Llama-3.1-8B", "Alvis", 8), ValueError, "cards of one kind are asked for, and 'Alvis' has 5"),
        (("Llama-3.1-8B", "Alvis A100-80GB", 64), ValueError, "64 GPUs are asked for, and of A100-80GB on Alvis there"),
        (("Llama-3.1-8B", "Alvis A40", 6), ValueError, "6 GPUs are no whole nodes of 4"),
        (("Llama-3.1-8B", "Alvis A40", 0), ValueError, "0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, error, said):
    with pytest.raises(error, match=said):
        layouts(*arguments)


def test_a_network_that_nobody_names_is_said():
    assert "NDR InfiniBand, an adapter for each GPU" in network_note(offers("Arrhenius")[0], 8)
    assert "10 Gbit Ethernet" in network_note(offers("16 x RTX 3090")[0], 16)
    assert network_note(offers("Arrhenius")[0], 4) == network_note(offers("Alvis A40")[0], 64) == ""


def test_the_planner_says_so_where_a_plan_needs_that_network():
    wish = {"task": "train", "seq_len": 1024, "batch_tokens": 2**15, "n_tokens": 10**9, "days": 0}
    for where, said in (("Arrhenius", True), ("Alvis A40", False)):
        notes = answer(wish | {"model": "Llama-3.1-8B", "where": where, "n_gpus": 8})["notes"]
        assert any("is assumed" in note and "No source gives the network" in note for note in notes) == said


def test_a_name_says_what_is_divided():
    assert Row(Layout(2, 4, 8, zero=1), "none").name == "DP 2, TP 4, PP 8, ZeRO 1"
