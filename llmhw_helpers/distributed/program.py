"""A function on every rank of a job, as torchrun and Slurm's srun start them: on one machine or on many.

    torchrun --nproc-per-node=4 -m llmhw_helpers.distributed.program llmhw_helpers.distributed.wire:count 1000000
    srun --ntasks=8 python -m llmhw_helpers.distributed.program llmhw_helpers.distributed.wire:count n_values=1000000

Each task runs this once. Torchrun tells a task its rank in the environment (RANK, WORLD_SIZE, MASTER_ADDR and others),
srun in variables of its own, which say the same. What the function returns is printed with the rank before it.
"""

import argparse
import ast
import contextlib
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist

from .faults import fate
from .worker import LOOPBACK, call, cores_note, place_of


def main(arguments: list[str] | None = None) -> int:
    """Join the job's other ranks, call the function, print its result; what goes wrong is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="program", description="Call a function on every rank of a job.")
    parser.add_argument("function", help="module:name, such as llmhw_helpers.distributed.wire:count")
    parser.add_argument("arguments", nargs="*", help="its arguments, as in Python: 8 or n_values=8")
    parser.add_argument("--timeout-s", type=float, default=60, help="for which one rank waits for another")
    asked = parser.parse_args(arguments)
    try:
        function = find(asked.function)
        args, kwargs = literals(asked.arguments)
        join(os.environ, asked.timeout_s)
    except (ValueError, OSError, dist.DistError) as error:
        print(f"rank {os.environ.get('RANK', '?')}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    rank = dist.get_rank()
    if os.environ.get("LOCAL_RANK") == "0" and (note := cores_note(_local_ranks(), torch.get_num_threads())):
        print(f"rank {rank}: {note}", file=sys.stderr)
    try:
        result = call(function, args, kwargs)
    except Exception as error:
        place = place_of([*traceback.walk_tb(error.__traceback__)])
        line = fate(("raised", type(error).__name__, str(error), place, ""))
        print(f"rank {rank} {line}", file=sys.stderr, flush=True)
        os._exit(1)  # without a farewell to ranks that may hang
    if result is not None:
        sys.stdout.write(f"rank {rank}: {result}\n")  # in one piece: ranks share a pipe, and torchrun buffers nothing
        sys.stdout.flush()
    dist.destroy_process_group()
    return 0


def find(name: str) -> Callable:
    """The function `module:name`.

    >>> find("llmhw_helpers.distributed.wire:counts")
    Traceback (most recent call last):
    ValueError: llmhw_helpers.distributed.wire has no function 'counts'; it has count, counted
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"no function {name!r}: {error}") from None
    found = getattr(module, function_name, None)
    if not callable(found):
        names = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        functions = ", ".join(n for n in sorted(names) if not n.startswith("_") and n[0].islower())
        raise ValueError(f"{module_name} has no function {function_name!r}; it has {functions or 'none'}")
    return found


def literals(texts: list[str]) -> tuple[list, dict[str, Any]]:
    """Arguments as they are written in Python; what is no number, list or the like is a string.

    >>> literals(["8", "name=gloo", "sizes=[1, 2]"])
    ([8], {'name': 'gloo', 'sizes': [1, 2]})
    """
    args, kwargs = [], {}
    for text in texts:
        named = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", text, re.DOTALL)
        value = named[2] if named else text
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
        if named:
            kwargs[named[1]] = value
        else:
            args.append(value)
    return args, kwargs


def join(environment: MutableMapping[str, str], timeout_s: float) -> None:
    """Join the process group that torchrun's variables, or else Slurm's, describe.

    Raises:
        ValueError: neither is there.
        OSError: the port on which the ranks meet is in use.
    """
    if "RANK" not in environment and "SLURM_PROCID" in environment:
        environment.update(from_slurm(environment))
    if missing := [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]:
        raise ValueError(f"start this with torchrun or srun: nobody has set {', '.join(missing)}")
    if "GLOO_SOCKET_IFNAME" not in environment:
        alone = _local_ranks() == int(environment["WORLD_SIZE"])
        environment["GLOO_SOCKET_IFNAME"] = LOOPBACK if alone else _device_towards(environment["MASTER_ADDR"])
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        where = f"port {environment['MASTER_PORT']} of {environment['MASTER_ADDR']}"
        raise OSError(f"{where} is in use by another program: set MASTER_PORT to another number") from None


def from_slurm(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Torchrun's variables from those of srun, for a task of it.

    The ranks meet on the job's first node, at a port that depends on the job and step: others use that node, too.
    """
    tasks = {"RANK": environment["SLURM_PROCID"], "WORLD_SIZE": environment["SLURM_NTASKS"]}
    tasks["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    counts = [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node) for _ in range(int(times or 1))]
    tasks["LOCAL_WORLD_SIZE"] = str(counts[int(environment.get("SLURM_NODEID", 0))])
    if "MASTER_ADDR" not in environment:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        tasks["MASTER_ADDR"] = _first_of(nodes) if len(counts) > 1 else "localhost"
    step = int(environment["SLURM_JOB_ID"]) * 10 + int(environment.get("SLURM_STEP_ID", 0))
    return tasks | {"MASTER_PORT": environment.get("MASTER_PORT", str(20_000 + step % 10_000))}


def _first_of(nodes: str) -> str:
    """ "alvis3" of "alvis[3-5]"."""
    shown = ""
    if shutil.which("scontrol"):
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
        ).stdout
    if not shown:
        raise OSError(f"scontrol does not tell the first of the nodes {nodes}: set MASTER_ADDR to its name")
    return shown.split()[0]


def _local_ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _device_towards(host: str) -> str:
    """The network device on the way to `host`. Gloo would take the one of this machine's name: often the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        address = probe.getsockname()[0]
    return next(name for name, known in psutil.net_if_addrs().items() if address in [one.address for one in known])


if __name__ == "__main__":
    sys.exit(main())
