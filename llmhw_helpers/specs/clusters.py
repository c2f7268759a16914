"""Clusters: which GPUs stand in which nodes, how they are connected, and what an hour costs.

Alvis (C3SE, Gothenburg) is the cluster of the lecture. Its figures describe it complete, as until 2026-06-30: from
2026-07-01 its nodes are taken away step by step, "until 2026-08-31, when no more nodes will be available" (C3SE news,
2026-05-22). Arrhenius (NAISS with EuroHPC, Linköping) succeeds it; its nodes have Arm CPUs, so software built for x86
does not run there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .figures import Figure, look_up

ALVIS_INTRO = "NAISS training material, alvis-intro"
AI_INTRO = "NAISS training material, ai-intro (Running AI/ML workloads on NAISS systems): GPU cost on Alvis"
ALVIS_GPUS = "C3SE, About Alvis: GPU hardware details"
LECTURE = "NAISS training material, LLM and hardware: Alvis hardware, network and storage"
ARRHENIUS_INTRO = "NAISS training material, ai-intro: NAISS GPU resources overview"
ARRHENIUS_SUPR = "NAISS SUPR, resource page Arrhenius GPU (supr.naiss.se/resource/arrhenius-gpu)"
ARRHENIUS_USERS = "guides that users of Arrhenius published in July 2026, citing its quick start (hpc.pages.naiss.se)"
UNKNOWN = "no public source"


@dataclass(frozen=True)
class NodeType:
    """The nodes of a cluster that hold one GPU model.

    Attributes:
        accelerator: name in `accelerators`.
        gpu_type: what Slurm calls it, as in ``--gpus-per-node=A100fat:1``; None where it is not known.
        gpus_per_node: GPUs in a node; several figures, ascending, where nodes differ.
        n_gpus: GPUs in the whole cluster.
        host_bytes: main memory of a node, nominal; several figures, ascending, where nodes differ.
        cores_per_gpu: CPU cores that come with a GPU.
        network_bits_per_s: link of the node to others, nominal, one direction.
        network: what kind of link that is, by its name in `links`; None where it is not known.
        gpu_link_bytes_per_s: between two GPUs in a node.
        price: of one GPU for an hour.
    """

    accelerator: str
    gpu_type: str | None
    gpus_per_node: tuple[Figure, ...]
    n_gpus: Figure
    host_bytes: tuple[Figure, ...]
    cores_per_gpu: Figure
    network_bits_per_s: Figure
    network: str | None
    gpu_link_bytes_per_s: Figure
    price: Figure


@dataclass(frozen=True)
class Cluster:
    """A cluster; prices of two clusters are in different units and do not compare.

    Attributes:
        nodes: its node types by accelerator.
        storage_bytes_per_s: what the parallel file system delivers.
        partition: what Slurm calls the nodes with GPUs, as in ``--partition=alvis``.
        longest_job: the longest time that a job may ask for.

    >>> cluster("Alvis").price("A100-80GB").value
    2.2
    >>> cluster("Arrhenius").node("T4")
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.figures.UnknownName: unknown accelerator of Arrhenius 'T4'; known are GH200
    """

    name: str
    nodes: Mapping[str, NodeType]
    storage_bytes_per_s: Figure
    partition: str
    longest_job: Figure

    def node(self, accelerator_name: str) -> NodeType:
        """The nodes with this GPU; `UnknownName` where the cluster has none of them."""
        return look_up(accelerator_name, self.nodes, f"accelerator of {self.name}")

    def price(self, accelerator_name: str) -> Figure:
        """What one GPU costs for an hour, in the cluster's own unit; a `Figure` without value where it is not known."""
        return self.node(accelerator_name).price


def _alvis(accelerator: str, gpu_type: str, gpus: int, per_node: tuple, host_gb: tuple, cores: int, price: float, gbit):
    network = "100 Gbit/s InfiniBand" if gbit == 100 else "25 Gbit/s Ethernet, the lecture's 'most other nodes'"
    cost = "cost of a GPU-hour relative to an A40's, charged to the project; follows the price of the hardware"
    return NodeType(
        accelerator,
        gpu_type,
        tuple(Figure(float(n), "", "GPUs in a node", ALVIS_INTRO) for n in per_node),
        Figure(float(gpus), "", "GPUs in the cluster, until 2026-06-30", ALVIS_GPUS),
        tuple(Figure(gb * 1e9, "B", "main memory of a node, nominal", ALVIS_INTRO) for gb in host_gb),
        Figure(float(cores), "", "CPU cores that come with a GPU", AI_INTRO),
        Figure(gbit * 1e9, "bit/s", f"nominal, one direction: {network}", LECTURE),
        "EDR InfiniBand" if gbit == 100 else "25 Gbit Ethernet",  # HDR100 has the same 100 Gbit/s
        Figure(None, "B/s", f"link between two {accelerator} in an Alvis node (NVLink or PCIe)", UNKNOWN),
        Figure(price, "A40-hour", cost, AI_INTRO),
    )


# ai-intro counts "318 A100s" in one place and 296 + 32 = 328 in its table, which C3SE's page shows too: taken here.
_ALVIS = (
    # accelerator, Slurm's name, GPUs, GPUs a node, host GB a node, cores a GPU, price, network in Gbit/s
    _alvis("T4", "T4", 160, (8,), (576, 1536), 4, 0.35, 25),
    _alvis("V100", "V100", 44, (2, 4), (768,), 8, 1.31, 25),
    _alvis("A40", "A40", 332, (4,), (256,), 16, 1.0, 25),
    _alvis("A100-40GB", "A100", 296, (4,), (256, 512), 16, 1.84, 100),
    _alvis("A100-80GB", "A100fat", 32, (4,), (1024,), 16, 2.2, 100),
)
_ARRHENIUS = NodeType(
    accelerator="GH200",
    gpu_type=None,
    gpus_per_node=(Figure(4.0, "", "superchips (one GPU, one CPU) in a node", ARRHENIUS_SUPR),),
    n_gpus=Figure(1528.0, "", "GPUs in the cluster", ARRHENIUS_INTRO),
    host_bytes=(Figure(4 * 120 * 2.0**30, "B", "LPDDR5X memory of a node, 120 GiB a superchip", ARRHENIUS_SUPR),),
    cores_per_gpu=Figure(72.0, "", "CPU cores of a superchip, Arm Neoverse V2", ARRHENIUS_SUPR),
    network_bits_per_s=Figure(None, "bit/s", "link of an Arrhenius node to others", UNKNOWN),
    network=None,
    gpu_link_bytes_per_s=Figure(None, "B/s", "link between two GPUs in an Arrhenius node", UNKNOWN),
    price=Figure(None, "", "price of a GPU-hour on Arrhenius", UNKNOWN),
)

CLUSTERS = {
    cluster.name: cluster
    for cluster in (
        Cluster(
            "Alvis",
            {node.accelerator: node for node in _ALVIS},
            Figure(None, "B/s", "throughput of Mimer, Alvis's WEKA file system", UNKNOWN),
            partition="alvis",
            longest_job=Figure(7 * 24.0, "h", "longest time of a job", ALVIS_INTRO),
        ),
        Cluster(
            "Arrhenius",
            {"GH200": _ARRHENIUS},
            Figure(None, "B/s", "throughput of Arrhenius's file system", UNKNOWN),
            partition="gpu",  # by ARRHENIUS_USERS, three of four; one says arrhenius-gpu
            longest_job=Figure(3 * 24.0, "h", "longest time of a job", ARRHENIUS_USERS),
        ),
    )
}


def cluster(name: str) -> Cluster:
    """The cluster called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, CLUSTERS, "cluster")
