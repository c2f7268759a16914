"""Buses, from transfers a second on each lane."""

import pytest

from llmhw_helpers.specs.buses import BUSES, bus
from llmhw_helpers.specs.figures import UnknownName


@pytest.mark.parametrize(("name", "gigabytes"), [("PCIe 3.0 x16", 15.75), ("PCIe 4.0 x16", 31.5), ("PCIe 5.0 x16", 63)])
def test_pcie_is_as_fast_as_tables_round_it(name, gigabytes):
    assert bus(name).known() / 1e9 == pytest.approx(gigabytes, rel=1e-3)


def test_one_direction_has_half_of_both():
    assert bus("nvlink c2c").known() == 900e9 / 2
    assert all("direction" in each.meaning for each in BUSES.values())


def test_a_name_that_is_not_there():
    with pytest.raises(UnknownName, match="did you mean PCIe 4.0 x16"):
        bus("PCIe 4")
