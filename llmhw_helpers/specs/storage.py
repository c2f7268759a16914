"""Storage: what disks and parallel file systems were measured to deliver, and what a home folder on a cluster may hold.

Rates are of reading, in bytes per second, as the source measured them: with the program, the number of clients and the
files that it says. The throughput of Alvis's own file system is not published (`clusters`), so others' stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .figures import Figure, look_up

DLIO = "MLCommons, Storage v1.0 results (repository storage_results_v1.0, 64c2ce48), unet3d"
FIO = "Azure, AI-benchmarking-guide (8fd0c6e1): fio on one node"
C3SE = "C3SE documentation, Storage resources at C3SE: quota of a home folder"
COLD = "dennislee22, vLLM-benchmarking (b474d1e0): 14.2 GiB of weights"


@dataclass(frozen=True)
class Storage:
    """Where files lie.

    Attributes:
        bytes_per_s: read from it, by all clients of the measurement together.
        n_clients: nodes that read at the same time.
        shared: whether all nodes of a cluster share it.
    """

    name: str
    bytes_per_s: Figure
    n_clients: Figure
    shared: bool


def _storage(name: str, gigabytes_per_s: float, n_clients: int, source: str, shared: bool, note: str = "") -> Storage:
    meaning = f"read by {n_clients} client{'s' * (n_clients > 1)}{note}"
    return Storage(
        name,
        Figure(gigabytes_per_s * 1e9, "B/s", meaning, source),
        Figure(float(n_clients), "", "nodes that read at the same time", source),
        shared,
    )


STORAGE: Mapping[str, Storage] = {
    each.name: each
    for each in (
        _storage("WEKA, one client", 34.496, 1, f"{DLIO}, WEKA", True),
        _storage("Lustre (HPE E1000), one client", 14.041, 1, f"{DLIO}, HPE Cray E1000 over 10 HDR200", True),
        _storage("Lustre (HPE E1000), 5 clients", 40.994, 5, f"{DLIO}, HPE Cray E1000 over 6 Slingshot 200", True),
        _storage("DDN, 18 clients", 99.836, 18, f"{DLIO}, DDN", True),
        _storage("one NVMe disk", 5.689, 1, f"{DLIO}, Micron 9400", False),
        _storage("disks of an A100 node", 9.3, 1, FIO, False),
        _storage("disks of an H100 node", 55.3, 1, FIO, False),
        _storage("a model's cold start", 15.2473 / 168.3, 1, f"{COLD}, read in 168.3 s", True, " through vLLM"),
        _storage("a model in the page cache", 15.2473 / 4.42, 1, f"{COLD}, read in 4.42 s", False, " through vLLM"),
    )
}
HOME_QUOTA: Mapping[str, Figure] = {
    "bytes": Figure(30 * 2.0**30, "B", "that a home folder on Alvis may hold: 30 GiB", C3SE),
    "files": Figure(60_000.0, "", "files and folders that a home folder on Alvis may hold", C3SE),
}


def storage(name: str) -> Storage:
    """The storage called `name`; `UnknownName` with the nearest names where there is none.

    >>> storage("one NVMe disk").bytes_per_s.known() / 1e9
    5.689
    """
    return look_up(name, STORAGE, "storage")
