"""Ranks: several processes that run the same function at the same time and send each other tensors.

A rank is a process with a number. Inside a function that runs on ranks, `torch.distributed` is ready: `dist.get_rank()`
is the process's own number, `dist.get_world_size()` how many there are, and `dist.all_reduce(x)` works together with
the others. What goes wrong on a rank ends all of them, and the notebook gets one line that names the rank and the call.

How it works: `launcher.py` starts the ranks from one process that has imported torch, `worker.py` is what each of them
does, `processes.py` the notebook's side of it, and `faults.py` has the words for what went wrong.
"""

import os
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from .faults import RankFailed, fault_line
from .networks import Network, NoNetwork, cannot_shape
from .processes import Processes
from .worker import cores_note

LIMIT = 10  # a call ends after so many times its `timeout_s`, even if its ranks go on computing
START_TIMEOUT_S = 30  # the same for ranks that join their group
ANSWER_S = 2  # for ranks that are asked where they stand
GRACE_S = 0.5  # for the other ranks' answers after a first failure: several may have failed of the same cause
COMPUTES_S = 0.03  # less processor time than this is none: three ticks of the kernel's clock


class Ranks:
    """`n_ranks` processes on this machine, joined by torch.distributed's gloo; they start with the first call.

    Args:
        n_ranks: how many. More than there are cores take turns: `note` says so.
        network: a wire of its own for each rank; without, all send over the machine's loopback.
        timeout_s: a call has failed when no rank has computed for so long, as they wait for one another, and in any
            case after ten times as long.
        threads: PyTorch's threads in each rank.
        checked: compare the kind, shape and type of every collective among the ranks before it runs (PyTorch's
            TORCH_DISTRIBUTED_DEBUG=DETAIL): a difference is said instead of a hang, for more messages.
        preload: modules that are imported once, before the ranks start. PyTorch's optimizers need "torch._dynamo": it
            takes each rank seconds otherwise.

    Raises:
        NoNetwork: this machine allows no `network`, and why: `cannot_shape()` says it beforehand.

    >>> import torch.distributed as dist
    >>> with Ranks(2) as ranks:
    ...     ranks.run(dist.get_rank)
    [0, 1]
    """

    def __init__(
        self,
        n_ranks: int,
        network: Network | None = None,
        timeout_s: float = 30,
        threads: int = 1,
        checked: bool = False,
        preload: tuple[str, ...] = (),
    ):
        if n_ranks < 1 or threads < 1 or not timeout_s > 0:
            raise ValueError(f"{n_ranks} ranks, {threads} threads, {timeout_s} s: each must be above zero")
        if not hasattr(os, "fork"):
            raise OSError("ranks need Linux or macOS: on Windows use its Linux subsystem (WSL)")
        if network and (why := cannot_shape(delay=network.delay_s > 0)):
            raise NoNetwork(why)
        self.n_ranks, self.network, self.timeout_s = n_ranks, network, timeout_s
        self.threads, self.checked, self.preload = threads, checked, tuple(preload)
        self._processes: Processes | None = None

    @property
    def note(self) -> str:
        """One line if the ranks have to take turns on this machine's cores, else empty."""
        return cores_note(self.n_ranks, self.threads)

    def __repr__(self) -> str:
        return f"Ranks({self.n_ranks})" + (f": {self.note}" if self.note else "")

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, function: Callable, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> list:
        """Call `function(*args, **kwargs)` on every rank at once; the results by rank.

        The function may come from a package or from a notebook's cell. What the ranks print is printed here after the
        call, rank after rank. Everything travels by pickle, also what the function uses of the notebook's names.

        Raises:
            RankFailed: a rank died, raised or hangs. No process is left, and the next call starts new ones.
            TypeError: the function or an argument cannot be sent.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if not timeout_s > 0:
            raise ValueError(f"a time-out of {timeout_s} s: it must be above zero")
        call = _pickled(function, args, kwargs)
        try:
            if self._processes is None:
                self._start()
            for rank in range(self.n_ranks):
                self._processes.send(call, rank)
            return self._gather(timeout_s)
        except BaseException:  # also the notebook's interrupt
            self.close()
            raise

    def close(self) -> None:
        """End the ranks. Nothing to do if there are none."""
        processes, self._processes = self._processes, None
        if processes:
            processes.end()

    def _start(self) -> None:
        group_timeout_s = LIMIT * max(self.timeout_s, START_TIMEOUT_S)  # later than the notebook's own
        how = (self.threads, group_timeout_s, self.checked, self.preload)
        self._processes = Processes(self.n_ranks, self.network, *how)
        self._gather(START_TIMEOUT_S)

    def _gather(self, timeout_s: float) -> list:
        """One answer of each rank: what all have returned, or a failure."""
        processes, answers = self._processes, {}
        began = moved = time.monotonic()
        computed_s, failed, fault = processes.computed_s(), None, ""
        while len(answers) < self.n_ranks and not fault:
            came, now = processes.receive(answers, 0.1), time.monotonic()
            if not came and (seconds := processes.computed_s()) > computed_s + COMPUTES_S:
                moved, computed_s = now, seconds
            if any(answer[0] != "returned" for answer in answers.values()):
                failed = failed or now
                if now > failed + GRACE_S:
                    break
            elif now > moved + timeout_s:
                fault = f"nothing moved for {timeout_s:g} s: "
            elif now > began + LIMIT * timeout_s:
                fault = f"no end after {LIMIT * timeout_s:g} s: "
        if fault or failed:
            self._fail(answers, fault)
        self._print("out", sys.stdout)
        self._print("err", sys.stderr)
        return [answers[rank][1] for rank in range(self.n_ranks)]

    def _fail(self, answers: dict[int, tuple], fault: str) -> None:
        """Ask those that are still at work where they stand, and tell it all in one line."""
        for rank in range(self.n_ranks):
            if rank not in answers:
                self._processes.send(b"where", rank)
        late = time.monotonic() + ANSWER_S
        while len(answers) < self.n_ranks and time.monotonic() < late:
            self._processes.receive(answers, 0.1)
        self._print("out", sys.stdout)
        errors = self._processes.new_text("err")
        tracebacks = [answer[4] for answer in answers.values() if answer[0] == "raised"]
        line = fault_line([answers.get(rank) for rank in range(self.n_ranks)], errors)
        raise RankFailed(fault + line, "\n".join([*errors, *tracebacks]))

    def _print(self, name: str, file: Any) -> None:
        for rank, text in enumerate(self._processes.new_text(name)):
            for line in text.splitlines():
                print(f"rank {rank}: {line}", file=file)


def run_ranks(
    n_ranks: int,
    function: Callable,
    *args: Any,
    network: Network | None = None,
    timeout_s: float = 30,
    threads: int = 1,
    **kwargs: Any,
) -> list:
    """Start ranks, call `function(*args, **kwargs)` on each of them once, and end them: see `Ranks.run`."""
    with Ranks(n_ranks, network, timeout_s, threads) as ranks:
        return ranks.run(function, *args, **kwargs)


def _pickled(function: Callable, args: tuple, kwargs: dict) -> bytes:
    """The call as bytes. A module that ranks cannot import (a script, a test) goes along by value, as a cell does."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    source = getattr(module, "__file__", None) or ""
    installed = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
    by_value = bool(source) and not source.startswith(installed) and module.__name__ != "__main__"
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps((function, args, kwargs))
    except Exception as error:
        name = getattr(function, "__name__", function)
        raise TypeError(f"{name} or what it uses cannot be sent to the ranks: {error}") from None
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
