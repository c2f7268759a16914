"""Links: rates against their definition, and a link for every card."""

import pytest

from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.links import LINKS, NODE_LINKS, link, node_link

# Links of one GPU, and GB/s of each in one direction, by the whitepapers of Volta, Ampere, Hopper and Blackwell
NVLINKS = {"NVLink 2": (6, 25), "NVLink 3": (12, 25), "NVLink 4": (18, 25), "NVLink 5": (18, 50)}
BRIDGES = {
    "NVLink bridge, GA102": (4, 14.0625),
    "NVLink bridge, A100 PCIe": (12, 25),
    "NVLink bridge, H100 NVL": (12, 25),
}


@pytest.mark.parametrize("name", [*NVLINKS, *BRIDGES])
def test_nvlink_is_its_links_times_their_rate(name):
    n, gigabytes = (NVLINKS | BRIDGES)[name]
    assert link(name).bytes_per_s.known() == n * gigabytes * 1e9


@pytest.mark.parametrize(("name", "lanes_gbit"), [("EDR", 25), ("HDR", 50), ("NDR", 100), ("XDR", 200)])
def test_infiniband_is_four_lanes(name, lanes_gbit):
    assert link(f"{name} InfiniBand").bytes_per_s.known() == 4 * lanes_gbit * 1e9 / 8


# What two GPUs, or two adapters, were seen to reach, GB/s: never more than the link has
SEEN = {
    "NVLink 4": 396.4,  # stas00/ml-engineering, H200
    "PCIe 5.0 x16": 55.43,  # the same, to the host
    "PCIe 4.0 x16": 26.3,  # Azure/AI-benchmarking-guide, A100
    "NVLink bridge, A100 PCIe": 208,  # nccl-tests, issue 178
    "NDR InfiniBand": 47,  # nccl-tests, issue 290
}


@pytest.mark.parametrize("name", SEEN)
def test_what_was_measured_lies_below_the_peak_and_not_far(name):
    assert 0.6 < SEEN[name] * 1e9 / link(name).bytes_per_s.known() < 1


def test_every_card_has_a_link_of_the_table_or_stands_alone():
    assert set(NODE_LINKS) <= set(ACCELERATORS)
    assert set(NODE_LINKS.values()) <= set(LINKS)
    alone = {name for name in ACCELERATORS if node_link(name).name == "none"}
    assert alone == {"GB10", *(name for name in ACCELERATORS if name.startswith("Apple"))}
    with pytest.raises(UnknownFigure, match="it is alone in its machine"):
        node_link("GB10").bytes_per_s.known()


def test_an_unknown_link_gets_the_nearest_names():
    with pytest.raises(UnknownName, match="unknown link 'NVLink'; did you mean NVLink 2, NVLink 3"):
        link("NVLink")
