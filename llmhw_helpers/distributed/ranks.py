"""Ranks: several processes that run the same function at the same time and send each other tensors.

A rank is a process with a number. Inside a function that runs on ranks, `torch.distributed` is ready: `dist.get_rank()`
is the process's own number, `dist.get_world_size()` how many there are, and `dist.all_reduce(x)` works together with
the others. What goes wrong on a rank ends all of them, and the notebook gets one line that names the rank and the call.
"""

import contextlib
import linecache
import os
import pickle
import re
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

from .networks import Network
from .worker import Place, Plan

LIMIT = 10  # a call ends after so many times its `timeout_s`, even if its ranks go on computing
START_S = 120  # a machine that is very busy imports torch in a minute
GRACE_S = 0.5  # for the other ranks' answers after a first failure: several may have failed of the same cause


class RankFailed(RuntimeError):
    """A rank died, raised or hangs; all ranks have been ended. `traceback` is the whole of what a rank raised."""

    def __init__(self, line: str, traceback: str = ""):
        super().__init__(line)
        self.traceback = traceback


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
        self.n_ranks, self.network, self.timeout_s, self.threads = n_ranks, network, timeout_s, threads
        self._launcher: subprocess.Popen | None = None

    @property
    def note(self) -> str:
        """One line if the ranks have to take turns on this machine's cores, else empty."""
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        if self.n_ranks * self.threads <= n_cores:
            return ""
        threads = f"{self.n_ranks} ranks of {self.threads} thread(s)"
        return f"{threads} take turns on {n_cores} core(s): results are right, times are not a cluster's"

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
        self._read: dict[str, int] = {}
        address = str(self._folder / "socket")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(address)
        self._server.listen(self.n_ranks + 1)
        self._server.settimeout(0.1)
        threads = str(self.threads)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-m", "llmhw_helpers.distributed.launcher", address]
        with open(self._folder / "err.launcher", "wb") as errors:
            self._launcher = subprocess.Popen(
                (self.network.command() if self.network else []) + command,
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
        self._printed()  # what libraries print at the start is of no use

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
            if now > moved + timeout_s or now > began + LIMIT * timeout_s:
                break
        if all(answer[0] == "returned" for answer in answers.values()) and len(answers) == self.n_ranks:
            self._print()
            return [answers[rank][1] for rank in range(self.n_ranks)]
        line, details = self._failure(answers, timeout_s)
        self._print()
        raise RankFailed(line, details)

    def _receive(self, answers: dict[int, tuple], seconds: float) -> None:
        """Add what has come within `seconds`: ("returned", result), ("raised", ...), ("died", code), ("stands", place)."""
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

    def _failure(self, answers: dict[int, tuple], timeout_s: float) -> tuple[str, str]:
        """The line that says what has gone wrong where, and a traceback if there is one."""
        for rank, connection in self._ranks.items():
            if rank not in answers:
                with contextlib.suppress(OSError):
                    connection.send_bytes(b"where")
        end = time.monotonic() + 2
        while len(answers) < self.n_ranks and time.monotonic() < end:
            self._receive(answers, 0.1)
        kinds = {kind: [r for r in sorted(answers) if answers[r][0] == kind] for kind in ("died", "raised")}
        first = next((kind for kind, ranks in kinds.items() if ranks), None)
        said: dict[str, list[int]] = {}
        for rank in kinds[first] if first else []:
            said.setdefault(_said(answers[rank]), []).append(rank)
        for rank in range(self.n_ranks):
            if rank not in (kinds[first] if first else []):
                said.setdefault(_said(answers.get(rank)), []).append(rank)
        line = "; ".join(f"{_named(ranks)} {what}" for what, ranks in said.items())
        details = answers[kinds["raised"][0]][4] if kinds["raised"] else ""
        return (line if first else f"no end after {timeout_s:g} s in which nothing moved: {line}"), details

    def _printed(self, name: str = "out") -> list[str]:
        lines = []
        for rank in range(self.n_ranks):
            path = self._folder / f"{name}.{rank}"
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(self._read.get(str(path), 0))
                text = file.read()
                self._read[str(path)] = file.tell()
                lines += [f"rank {rank}: {line}" for line in text.decode(errors="replace").splitlines()]
        return lines

    def _print(self) -> None:
        for line in self._printed():
            print(line)
        for line in self._printed("err"):
            print(line, file=sys.stderr)


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


def _said(answer: tuple | None) -> str:
    """What one rank's answer says: "has returned", "is in all_reduce at cell:3"."""
    match answer:
        case None:
            return "does not answer"
        case ("returned", _):
            return "has returned"
        case ("died", code):
            return f"died ({signal.Signals(-code).name})" if code < 0 else f"ended itself (exit {code})"
        case ("stands", place):
            return f"is in {_place(place)}"
        case ("raised", kind, message, place, _):
            at = f" in {_place(place)}" if place.calls else ""
            return f"raised {kind}{at}: {' '.join(message.split())}"


def _place(place: Place) -> str:
    """ "all_reduce at cell:3": the collective, or the line itself, and where it stands."""
    if not place.calls:
        return "no function of yours"
    file, line, name = place.calls[-1]
    what = place.collective or linecache.getline(file, line).strip() or name
    outer = next((call for call in reversed(place.calls) if call[0] == place.calls[0][0]), None)
    return f"{what} at {_file(file)}:{line}" + (f", from {_file(outer[0])}:{outer[1]}" if outer[0] != file else "")


def _file(path: str) -> str:
    return "cell" if re.search(r"ipykernel_\d+|<ipython|<stdin>", path) else Path(path).name


def _named(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
