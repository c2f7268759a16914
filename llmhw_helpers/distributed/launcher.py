"""The process that starts the ranks and outlives none of them: it imports torch once, then forks.

    notebook ──── Unix socket ──── launcher ──── forks ──── rank 0, rank 1, ...
        └───────── one Unix socket to each rank ───────────────┘

Torch takes seconds to import and nothing to copy, so n ranks start about as fast as one. Where a fork is not safe
(macOS: its system libraries do not allow it) each rank is a new Python. The launcher ends all its ranks as soon as its
own socket closes, however the notebook's process has ended; it tells the notebook which of them died, and how.
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing.connection import Client, wait

from .networks import Wires
from .worker import Plan, serve


def main(address: str) -> None:
    """Start the ranks of the plan that comes through the socket `address`; end them when it closes."""
    control = Client(address)
    control.send("launcher")
    plan: Plan = control.recv()
    if forks := sys.platform == "linux":
        for name in ("torch.distributed", *plan.preload):
            importlib.import_module(name)  # here, once, for all ranks
    context = multiprocessing.get_context("fork" if forks else "spawn")
    ranks = [context.Process(target=serve, args=(rank, plan)) for rank in range(plan.n_ranks)]
    wires = Wires(plan.network) if plan.network else None
    try:
        for rank, process in enumerate(ranks):
            with wires.at(rank) if wires else contextlib.nullcontext():
                process.start()
        if wires:
            wires.start()
        alive = dict(enumerate(ranks))
        while control not in (ready := wait([control, *(process.sentinel for process in alive.values())])):
            for rank in [rank for rank, process in alive.items() if process.sentinel in ready]:
                process = alive.pop(rank)
                process.join()
                with contextlib.suppress(OSError):
                    control.send((rank, process.exitcode))
    finally:
        for process in ranks:
            if process.pid:
                process.kill()
                process.join()
        shutil.rmtree(plan.folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():  # what the ranks have started is of this group as well
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
