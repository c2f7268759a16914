"""Clusters and cards as people name them."""

import pytest

from llmhw_helpers.costs.places import offers
from llmhw_helpers.specs.figures import UnknownName


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("Alvis", [("T4", 160, 8), ("V100", 44, 4), ("A40", 332, 4), ("A100-40GB", 296, 4), ("A100-80GB", 32, 4)]),
        ("arrhenius", [("GH200", 1528, 4)]),
        ("Alvis A40", [("A40", 332, 4)]),
        ("Alvis 8 x A40", [("A40", 8, 4)]),
        ("A100-80GB", [("A100-80GB", 1, 1)]),
        ("2xT4, 16 x H100", [("T4", 2, 2), ("H100", 16, 8)]),
        (["A40", "3 T4"], [("A40", 1, 1), ("T4", 3, 3)]),
    ],
)
def test_names(where, expected):
    assert [(offer.card.name, offer.n_gpus, offer.gpus_per_node) for offer in offers(where)] == expected


def test_cards_that_are_named_twice_are_there_once():
    assert [(offer.name, offer.n_gpus) for offer in offers("1 x A40, T4, 4 x A40, A40")] == [("A40", 4), ("T4", 1)]
    assert len(offers("Alvis, Alvis A40, A40")) == 6


def test_n_gpus_limits_a_cluster_and_counts_cards():
    assert [offer.n_gpus for offer in offers("Alvis", 40)] == [40, 40, 40, 40, 32]
    assert [offer.n_gpus for offer in offers("A40, 2 x T4", 4)] == [4, 2]


def test_prices_are_the_clusters():
    alvis, own = offers("Alvis A40")[0], offers("A40")[0]
    assert (alvis.price.value, alvis.price.unit, own.price.value) == (1.0, "A40-hour", None)
    assert offers("Arrhenius")[0].price.value is None


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("Alvis2000", "unknown cluster or card 'Alvis2000'; did you mean Alvis"),
        ("Alvis H100", "unknown accelerator of Alvis 'H100'"),
        ("0 x A40", "one GPU at least"),
        ("100 x Alvis", "100 x Alvis: Alvis is a cluster"),
        ("Alvis 9999 x A40", "Alvis has 332 A40"),
        ("1000000 x A40", "fewer than 1000000 cards"),
        ("9" * 5000 + " x A40", "a number of 5000 digits"),
        ("", "no cluster and no card"),
        ([], "no cluster and no card"),
    ],
)
def test_refused_in_one_line(where, message):
    with pytest.raises((UnknownName, ValueError), match=message) as caught:
        offers(where)
    assert "\n" not in str(caught.value)


def test_more_cards_fill_a_node_first():
    own = offers("2 x A40")[0]
    assert (own.more(4).gpus_per_node, own.more(16).gpus_per_node, own.more(16).n_nodes(16)) == (4, 8, 2)
    assert offers("Alvis A40", 4)[0].more(16).n_nodes(16) == 4
