"""Counters of energy in a folder laid out as the kernel's, for machines that have none or hide theirs."""

import pytest

from llmhw_helpers.measure.energy import PackageEnergy

WRAPS = 262_143_328_850


@pytest.fixture
def powercap(tmp_path):
    """Two packages, a part of the first, and the controller above them."""
    names = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core"}
    for folder, name in names.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(f"{name}\n")
        (tmp_path / folder / "max_energy_range_uj").write_text(f"{WRAPS}\n")
    (tmp_path / "intel-rapl").mkdir()

    def show(first, second):
        for folder, value in zip(names, (first, second, 12345), strict=True):
            (tmp_path / folder / "energy_uj").write_text(f"{value}\n")
        return tmp_path

    show(0, 0)
    return show


def joules(energy, now):
    return energy.read(now).get("package_joules")


def test_packages_add_up_and_their_parts_do_not_count_twice(powercap):
    energy = PackageEnergy(powercap(1_000_000, 500_000))
    assert joules(energy, 0.0) == 0
    powercap(3_000_000, 1_000_000)
    assert joules(energy, 0.1) == pytest.approx(2.5)


def test_a_counter_that_wraps_goes_on_and_one_that_starts_again_takes_nothing_back(powercap):
    energy = PackageEnergy(powercap(WRAPS - 1_000_000, 100_000_000_000))
    energy.read(10.0)
    powercap(2_000_000, 100_000_000_000)
    assert joules(energy, 10.1) == pytest.approx(3)
    powercap(2_000_000, 50_000_000)  # the driver was loaded again: no package draws 162 kJ in a tenth of a second
    assert joules(energy, 10.2) == pytest.approx(3)
    powercap(2_000_000, 51_000_000)
    assert joules(energy, 10.3) == pytest.approx(4)


def test_what_may_not_be_read_is_no_column(powercap, tmp_path):
    folder = powercap(0, 0)
    energy = PackageEnergy(folder)
    energy.read(0.0)
    (folder / "intel-rapl:1" / "energy_uj").unlink()
    assert energy.read(0.1) == {}  # half of the packages would pass for all
    assert PackageEnergy(tmp_path / "none").read(0.0) == {}
