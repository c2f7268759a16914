"""Which machine this is. Results are kept per machine, so that a laptop's never pass for a cluster's."""

import os
import platform
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import cache
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

    def without_gpu(self) -> "Machine":
        """The same machine for what runs on its processor alone."""
        return replace(self, gpu=None, capability=None)

    def __str__(self) -> str:
        gpu = f"GPU {self.gpu}" if self.gpu else "no GPU"
        return f"{self.cpu}, {self.n_cores} cores, {self.memory_bytes / 2**30:.0f} GiB of memory, {gpu}"


def this_machine() -> Machine:
    """The machine that runs this process."""
    has_gpu = _gpu_works()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return Machine(
        cpu=_cpu_name(),
        n_cores=len(cores),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        capability=torch.cuda.get_device_capability() if has_gpu else None,
    )


@cache
def _gpu_works() -> bool:
    """Whether there is a GPU that this torch has kernels for: newer builds leave the oldest GPUs out."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.ones(1, device="cuda").add_(1).item()
        return True
    except RuntimeError:
        name, version = torch.cuda.get_device_name(), torch.version.cuda
        print(f"{name}: torch {torch.__version__} (CUDA {version}) has no kernels for it. Using the CPU instead.")
        return False


def home() -> Path:
    """Where results are kept: ``$LLMHW_HOME``, or the user's own data folder.

    Where that cannot be written, as with many accounts in containers, a folder among the temporary files, which is said
    once. Where nothing can be written there is no such folder, and a `Record` lives in its kernel's memory.
    """
    named = os.environ.get("LLMHW_HOME", "").strip(" \t\n\"'")  # a container's list of variables keeps quotes
    wanted = _expanded(named) if named else _data_folder()
    if wanted and _is_writable(wanted):
        return wanted
    spare = _spare_folder()
    if spare is None:
        return wanted or Path(os.devnull) / "llmhw"
    why = f"{wanted or named} cannot be written" if wanted or named else "this account has no home folder"
    _say_once(f"Results are kept in {spare}, which may not last: {why}. LLMHW_HOME=FOLDER names another place.")
    return spare


@cache
def _say_once(line: str) -> None:
    print(line)


def _expanded(named: str) -> Path | None:
    """With ``~`` and variables filled in, which no shell does for a container; None where they stand for nothing."""
    path = os.path.expandvars(os.path.expanduser(named))
    if named[0] in "~$" and not os.path.isabs(path):
        return None
    return Path(os.path.abspath(path))


def _data_folder() -> Path | None:
    """None for an account without a home folder, which platformdirs refuses or gives as a relative path."""
    try:
        folder = user_data_path("llmhw", appauthor=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _is_writable(folder: Path) -> bool:
    """Makes it where it is not there yet, and tries."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _spare_folder() -> Path | None:
    """A folder of this account's own, and nobody else's; None where temporary files would go to the working folder."""
    account = getattr(os, "getuid", lambda: 0)()  # on Windows, temporary files are each user's own
    try:
        temporary = Path(tempfile.gettempdir())
        if temporary == Path.cwd():
            return None
        folder = temporary / f"llmhw-{account}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder if folder.stat().st_uid == account and _is_writable(folder) else None
    except OSError:
        return None


@cache
def _cpu_name() -> str:
    """The processor's name, as the system tells it: /proc/cpuinfo on x86, lscpu on Arm, sysctl on a Mac."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    for told in (text, command_output("lscpu")):
        match = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE | re.IGNORECASE)
        if match:
            return match[1].strip()
    return command_output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine() or "unknown processor"


def command_output(*command: str) -> str:
    """What a program of the system prints; empty where there is none, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
