"""The notebook's side of the ranks' processes: start them, ask and hear them, see whether they work, end them."""

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from .faults import RankFailed
from .networks import Network, command
from .worker import Place, Plan

START_S = 120  # a machine that is very busy imports torch in a minute
END_S = 10  # for a launcher to end its ranks, before all are killed
SOCKET_PATH = 80  # longest folder for temporary files in which a socket's name has room


class Processes:
    """A launcher and its `n_ranks` ranks, just started; `threads` of PyTorch in each.

    Raises:
        RankFailed: they have not come up.
    """

    def __init__(
        self,
        n_ranks: int,
        network: Network | None,
        threads: int,
        group_timeout_s: float,
        checked: bool = False,
        preload: tuple[str, ...] = (),
    ):
        parent = "/tmp" if len(tempfile.gettempdir()) > SOCKET_PATH else None
        self.folder = Path(tempfile.mkdtemp(prefix="llmhw-", dir=parent))
        self.n_ranks, self.pids = n_ranks, {}
        self._ranks: dict[int, Connection] = {}
        self._control: Connection | None = None
        self._launcher: subprocess.Popen | None = None
        self._read: dict[tuple[str, int], int] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._errors = open(self.folder / "err.launcher", "a+b")  # noqa: SIM115  it outlives the launcher's clearing up
        try:
            self._server.bind(str(self.folder / "socket"))
            self._server.listen(n_ranks + 1)
            self._launch(network, threads, checked)
            self._meet(Plan(self.folder, n_ranks, threads, group_timeout_s, network, preload))
        except BaseException:
            self.end()
            raise

    def _launch(self, network: Network | None, threads: int, checked: bool) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}
        if checked:
            environment |= {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
        launcher = [sys.executable, "-m", "llmhw_helpers.distributed.launcher", str(self.folder / "socket")]
        self._launcher = subprocess.Popen(
            (command() if network else []) + launcher,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,  # the notebook's interrupt goes to the notebook alone
        )

    def _meet(self, plan: Plan) -> None:
        """Wait until the launcher and every rank have come to the socket."""
        self._server.settimeout(0.1)
        late = time.monotonic() + START_S
        while len(self._ranks) < self.n_ranks:
            try:
                connection = Connection(self._server.accept()[0].detach())
            except TimeoutError:
                if self._launcher.poll() is not None or time.monotonic() > late:
                    self._errors.seek(0)
                    last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise RankFailed(f"the ranks did not start: {last[0] if last else 'no answer'}") from None
                continue
            if (who := connection.recv()) == "launcher":
                self._control = connection
                connection.send(plan)
            else:
                rank, self.pids[rank] = who
                self._ranks[rank] = connection

    def send(self, message: bytes, rank: int) -> None:
        """A call, or the question where the rank stands."""
        with contextlib.suppress(OSError):  # it has died: the launcher tells
            self._ranks[rank].send_bytes(message)

    def receive(self, answers: dict[int, tuple], seconds: float) -> bool:
        """Add to `answers` by rank what comes within `seconds`, and whether anything has.

        An answer is ("returned", value), ("raised", kind, message, place, traceback), ("stands", place), or, from the
        launcher, ("died", exit code).

        Raises:
            RankFailed: the launcher itself has died.
        """
        waiting = {connection: rank for rank, connection in self._ranks.items() if rank not in answers}
        ready = wait([*waiting, self._control], seconds)
        for connection in ready:
            if connection is self._control:
                try:
                    rank, code = connection.recv()
                except (EOFError, OSError):
                    raise RankFailed("the process that had started the ranks died, and they with it") from None
                answers[rank] = ("died", code)
                continue
            with contextlib.suppress(EOFError, OSError):  # it has died: the launcher tells
                message = connection.recv_bytes()
                try:
                    answers[waiting[connection]] = pickle.loads(message)
                except Exception as error:
                    reason = f"its result cannot be read here: {error}"
                    answers[waiting[connection]] = ("raised", type(error).__name__, reason, Place(()), "")
        return bool(ready)

    def computed_s(self) -> float:
        """Processor seconds of all ranks until now."""
        total = 0.0
        for pid in self.pids.values():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def new_text(self, name: str) -> list[str]:
        """What each rank has written to "out" or "err" since this was asked last."""
        texts = []
        for rank in range(self.n_ranks):
            with open(self.folder / f"{name}.{rank}", "rb") as file:
                file.seek(self._read.get((name, rank), 0))
                texts.append(file.read().decode(errors="replace"))
                self._read[name, rank] = file.tell()
        return texts

    def end(self) -> None:
        """End all of them; no process and no file is left."""
        self._server.close()
        self._errors.close()
        for connection in (*self._ranks.values(), self._control):
            if connection:
                connection.close()
        if self._launcher:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(END_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._launcher.pid, signal.SIGKILL)  # its ranks are of its group, and what they have started
            self._launcher.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
