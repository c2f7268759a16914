"""Ranks: several processes that run the same function at the same time and send each other tensors.

A rank is a process with a number. Inside a function that runs on ranks, `torch.distributed` is ready: `dist.get_rank()`
is the process's own number, `dist.get_world_size()` how many there are, and `dist.all_reduce(x)` works together with
the others. What goes wrong on a rank ends all of them, and the notebook gets one line that names the rank and the call.
"""

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from .faults import RankFailed, fault_line
from .networks import Network, NoNetwork, cannot_shape, command
from .worker import Plan, cores_note

LIMIT = 10  # a call ends after so many times its `timeout_s`, even if its ranks go on computing
START_S = 120  # a machine that is very busy imports torch in a minute
ANSWER_S = 2  # for ranks that are asked where they stand
GRACE_S = 0.5  # for the other ranks' answers after a first failure: several may have failed of the same cause


class Ranks:
    """`n_ranks` processes on this machine, joined by torch.distributed's gloo; they start with the first call.

    Args:
        n_ranks: how many. More than there are cores take turns: `note` says so.
        network: a wire of its own for each rank; without, all send over the machine's loopback.
        timeout_s: a call has failed when no rank has computed for so long, as they wait for one another, and in any
            case after ten times as long.
        threads: PyTorch's threads in each rank.

    >>> import torch.distributed as dist
    >>> with Ranks(2) as ranks:
    ...     ranks.run(dist.get_rank)
    [0, 1]
    """

    def __init__(self, n_ranks: int, network: Network | None = None, timeout_s: float = 30, threads: int = 1):
        if n_ranks < 1 or threads < 1 or timeout_s <= 0:
            raise ValueError(f"{n_ranks} ranks, {threads} threads, {timeout_s} s: each must be above zero")
        if network and (why := cannot_shape(delay=network.delay_s > 0)):
            raise NoNetwork(why)
        self.n_ranks, self.network, self.timeout_s, self.threads = n_ranks, network, timeout_s, threads
        self._launcher: subprocess.Popen | None = None

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
        call = _pickled(function, args, kwargs)
        try:
            if self._launcher is None:
                self._start()
            for connection in self._ranks.values():
                with contextlib.suppress(OSError):  # it has died: the launcher tells
                    connection.send_bytes(call)
            return self._gather(timeout_s or self.timeout_s)
        except BaseException:  # also the notebook's interrupt
            self.close()
            raise

    def close(self) -> None:
        """End the ranks. Nothing to do if there are none."""
        if self._launcher is None:
            return
        for connection in (*self._ranks.values(), self._control):
            if connection:
                connection.close()
        self._server.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._launcher.wait(10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._launcher.pid, signal.SIGKILL)  # it leads a group: whatever its ranks have started, too
        self._launcher.wait()
        self._launcher = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="llmhw-"))
        self._ranks: dict[int, Connection] = {}
        self._control: Connection | None = None
        self._pids: dict[int, int] = {}
        self._read: dict[tuple[str, int], int] = {}
        address = str(self._folder / "socket")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(address)
        self._server.listen(self.n_ranks + 1)
        self._server.settimeout(0.1)
        threads = str(self.threads)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        launcher = [sys.executable, "-m", "llmhw_helpers.distributed.launcher", address]
        with open(self._folder / "err.launcher", "wb") as errors:
            self._launcher = subprocess.Popen(
                (command() if self.network else []) + launcher,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # the notebook's interrupt goes to the notebook alone
            )
        plan = Plan(self._folder, self.n_ranks, self.threads, LIMIT * self.timeout_s, self.network)
        end = time.monotonic() + START_S
        while len(self._ranks) < self.n_ranks:
            try:
                connection = Connection(self._server.accept()[0].detach())
            except TimeoutError:
                if self._launcher.poll() is not None or time.monotonic() > end:
                    last = (self._folder / "err.launcher").read_text().strip().splitlines()[-1:]
                    raise RankFailed(f"the ranks did not start: {last[0] if last else 'no answer'}") from None
                continue
            if (who := connection.recv()) == "launcher":
                self._control = connection
                connection.send(plan)
            else:
                self._ranks[who[0]], self._pids[who[0]] = connection, who[1]
        self._gather(START_S / LIMIT)
        self._new_text("out")  # what libraries print at the start is of no use

    def _gather(self, timeout_s: float) -> list:
        """One answer of each rank."""
        answers: dict[int, tuple] = {}
        began = moved = time.monotonic()
        computed, failed_at = self._computed(), None
        while len(answers) < self.n_ranks:
            self._receive(answers, 0.1)
            now, seconds = time.monotonic(), self._computed()
            if seconds > computed + 0.03:  # three ticks of the kernel's clock
                moved, computed = now, seconds
            if failed_at is None and any(answer[0] != "returned" for answer in answers.values()):
                failed_at = now
            if failed_at is not None and now > failed_at + GRACE_S:
                break
            if (still := now > moved + timeout_s) or now > began + LIMIT * timeout_s:
                break
        if len(answers) == self.n_ranks and failed_at is None:
            for line in _prefixed(self._new_text("out")):
                print(line)
            for line in _prefixed(self._new_text("err")):
                print(line, file=sys.stderr)
            return [answers[rank][1] for rank in range(self.n_ranks)]
        for rank, connection in self._ranks.items():
            if rank not in answers:
                with contextlib.suppress(OSError):
                    connection.send_bytes(b"where")
        end = time.monotonic() + ANSWER_S
        while len(answers) < self.n_ranks and time.monotonic() < end:
            self._receive(answers, 0.1)
        for line in _prefixed(self._new_text("out")):
            print(line)
        errors = self._new_text("err")
        line = fault_line([answers.get(rank) for rank in range(self.n_ranks)], errors)
        if failed_at is None:
            line = (
                f"nothing moved for {timeout_s:g} s: {line}"
                if still
                else f"no end after {LIMIT * timeout_s:g} s: {line}"
            )
        tracebacks = [answer[4] for answer in answers.values() if answer[0] == "raised"]
        raise RankFailed(line, "\n".join(_prefixed(errors) + tracebacks))

    def _receive(self, answers: dict[int, tuple], seconds: float) -> None:
        """Add what comes within `seconds`: ("returned", value), ("raised", ...), ("died", code), ("stands", place)"""
        waiting = {connection: rank for rank, connection in self._ranks.items() if rank not in answers}
        for connection in wait([*waiting, self._control], seconds):
            try:
                message = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                if connection is self._control:
                    message = None
                else:
                    continue
            if connection is self._control:
                rank, code = message if message else (min(waiting.values()), -9)
                answers[rank] = ("died", code)
            else:
                answers[waiting[connection]] = message

    def _computed(self) -> float:
        """Processor seconds of all ranks."""
        total = 0.0
        for pid in self._pids.values():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def _new_text(self, name: str) -> list[str]:
        """What each rank has written to its output `name` since this was asked last."""
        texts = []
        for rank in range(self.n_ranks):
            with open(self._folder / f"{name}.{rank}", "rb") as file:
                file.seek(self._read.get((name, rank), 0))
                texts.append(file.read().decode(errors="replace"))
                self._read[name, rank] = file.tell()
        return texts


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


def _prefixed(texts: list[str]) -> list[str]:
    return [f"rank {rank}: {line}" for rank, text in enumerate(texts) for line in text.splitlines()]


def _pickled(function: Callable, args: tuple, kwargs: dict) -> bytes:
    """The call as bytes. A module that ranks cannot import (a script, a test) goes along by value, as a cell does."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    source = getattr(module, "__file__", None) or ""
    package = str(Path(__file__).parents[1])
    installed = (package, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
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
