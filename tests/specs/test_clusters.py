import pytest

from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.clusters import CLUSTERS, cluster
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.links import link

NODES = [(name, node) for name, found in CLUSTERS.items() for node in found.nodes.values()]


@pytest.mark.parametrize(("name", "node"), NODES)
def test_every_node_type_holds_an_accelerator_of_the_table(name, node):
    assert node.accelerator in ACCELERATORS
    assert cluster(name).node(node.accelerator) is node


def test_alvis_counts_and_prices():
    rows = {gpu: (node.n_gpus.value, node.price.value) for gpu, node in cluster("Alvis").nodes.items()}
    assert rows == {
        "T4": (160, 0.35),
        "V100": (44, 1.31),
        "A40": (332, 1),
        "A100-40GB": (296, 1.84),
        "A100-80GB": (32, 2.2),
    }


def test_the_price_example_of_the_training_material():
    """ "Using 2xT4 GPUs for 10 hours costs 7 GPU hours"."""
    assert 2 * 10 * cluster("alvis").price("t4").known() == pytest.approx(7, rel=1e-12)


def test_alvis_memory_per_gpu_is_what_the_training_material_lists():
    listed = {"T4": {72, 192}, "V100": {192, 384}, "A40": {64}, "A100-40GB": {64, 128}, "A100-80GB": {256}}
    for gpu, node in cluster("Alvis").nodes.items():
        per_gpu = {m.value / n.value / 1e9 for m in node.host_bytes for n in node.gpus_per_node}
        assert per_gpu == listed[gpu]


def test_gpus_fill_whole_nodes():
    for _, node in NODES:
        assert node.n_gpus.value % min(figure.value for figure in node.gpus_per_node) == 0


def test_only_a100_nodes_have_infiniband():
    speeds = {gpu: node.network_bits_per_s.value for gpu, node in cluster("Alvis").nodes.items()}
    assert {gpu for gpu, speed in speeds.items() if speed == 100e9} == {"A100-40GB", "A100-80GB"}
    assert all(speed == 25e9 for gpu, speed in speeds.items() if not gpu.startswith("A100"))


def test_a_network_is_a_link_of_the_table_with_as_many_bits():
    for _, node in NODES:
        if node.network is None:
            assert node.network_bits_per_s.value is None
        else:
            assert 8 * link(node.network).bytes_per_s.known() == node.network_bits_per_s.known()


def test_what_nobody_published_stays_unknown():
    arrhenius = cluster("Arrhenius")
    for figure, words in [
        (arrhenius.price("GH200"), "price of a GPU-hour on Arrhenius"),
        (cluster("Alvis").storage_bytes_per_s, "WEKA"),
        (cluster("Alvis").node("A100-80GB").gpu_link_bytes_per_s, "NVLink or PCIe"),
    ]:
        with pytest.raises(UnknownFigure, match=words):
            figure.known()
    assert arrhenius.node("GH200").n_gpus.known() == 1528


def test_a_gpu_that_a_cluster_has_not_got():
    with pytest.raises(UnknownName, match="unknown accelerator of Alvis 'GH200'"):
        cluster("Alvis").price("GH200")
    with pytest.raises(UnknownName, match="unknown cluster 'LUMI'; did you mean Alvis"):
        cluster("LUMI")
