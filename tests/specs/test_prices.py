"""Prices: dated, in the unit that they say, of cards that are in the table."""

import re

import pytest

from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.prices import LAUNCH, RENT, launch, rent


@pytest.mark.parametrize(("table", "unit"), [(RENT, "USD/h"), (LAUNCH, "USD")])
def test_every_price_is_of_a_card_in_dollars_and_says_when(table, unit):
    assert set(table) <= set(ACCELERATORS)
    for price in table.values():
        assert price.unit == unit
        assert price.known() > 0
        assert re.search(r"20[12]\d", price.source), price.source


def test_a_price_that_was_not_found_is_unknown_and_not_zero():
    assert (rent("RTX 4090").value, rent("RTX 4090").unit) == (None, "USD/h")
    assert (launch("H100").value, launch("H100").unit) == (None, "USD")


def test_more_bandwidth_costs_more_to_rent_from_one_vendor():
    """The order of a price sheet: a slip of a digit would break it."""
    modal = [name for name, price in RENT.items() if price.source.startswith("Modal")]
    assert sorted(modal, key=lambda name: RENT[name].known()) == ["T4", "L4", "L40S", "A100-80GB"]
