"""Which machine this is. Results are kept per machine, so that a laptop's never pass for a cluster's."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from platformdirs import user_data_path


@dataclass(frozen=True)
class Machine:
    """What results depend on: processor, the cores this process may use, memory, GPU."""

    cpu: str
    n_cores: int
    memory_bytes: int
    gpu: str | None
    capability: tuple[int, int] | None

    @property
    def key(self) -> str:
        """A folder's name. Without the host's name: every node of a kind in a cluster is the same machine."""
        name = f"{self.gpu}-{self.cpu}" if self.gpu else self.cpu
        return re.sub(r"[^a-z0-9]+", "-", f"{name}-{self.n_cores}-cores".lower()).strip("-")

    @property
    def device(self) -> torch.device:
        """Where computations run: the first GPU, else the CPU."""
        return torch.device("cuda" if self.gpu else "cpu")

    def __str__(self) -> str:
        gpu = f"GPU {self.gpu}" if self.gpu else "no GPU"
        return f"{self.cpu}, {self.n_cores} cores, {self.memory_bytes / 2**30:.0f} GiB of memory, {gpu}"


def this_machine() -> Machine:
    """The machine that runs this process."""
    has_gpu = torch.cuda.is_available()
    return Machine(
        cpu=_cpu_name(),
        n_cores=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        capability=torch.cuda.get_device_capability() if has_gpu else None,
    )


def home() -> Path:
    """Where results are kept: ``$LLMHW_HOME``, or the user's own data folder."""
    if os.environ.get("LLMHW_HOME"):
        return Path(os.environ["LLMHW_HOME"])
    return user_data_path("llmhw", appauthor=False)


def _cpu_name() -> str:
    """The processor's marketing name where the system tells it; Arm Linux tells an architecture only."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine() or "unknown processor"
