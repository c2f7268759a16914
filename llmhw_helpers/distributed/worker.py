"""What a rank's process does: it joins the group and answers calls, and tells where it stands when it is asked."""

import contextlib
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import cloudpickle

from .networks import Network

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True)
class Plan:
    """What a launcher needs to know: `folder` holds the sockets, the ranks' meeting place and what they print."""

    folder: Path
    n_ranks: int
    threads: int
    group_timeout_s: float
    network: Network | None
    preload: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a rank's program stands: calls as (file, line, function), the first one first, and the collective."""

    calls: tuple[tuple[str, int, str], ...]
    collective: str = ""


def serve(rank: int, plan: Plan) -> None:
    """Be rank `rank`: join the group, then run one call after the other, until the notebook's socket closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not even a killed launcher leaves a rank
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(plan.folder / f"{name}.{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
    sys.stdout = os.fdopen(
        1, "w", buffering=1, encoding="utf-8", closefd=False
    )  # by lines: what was printed is there after a kill
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    faulthandler.enable(sys.stderr)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(plan.threads)
    os.environ["GLOO_SOCKET_IFNAME"] = plan.network.device if plan.network else LOOPBACK
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(plan.n_ranks), "LOCAL_WORLD_SIZE": str(plan.n_ranks)}
    connection, calls = Client(str(plan.folder / "socket")), queue.SimpleQueue()
    connection.send((rank, os.getpid()))
    threading.Thread(target=_watch, args=(connection, calls), daemon=True).start()
    store = dist.FileStore(str(plan.folder / "store"), plan.n_ranks)  # no port that another program may have taken
    timeout = timedelta(seconds=plan.group_timeout_s)
    _answer(connection, lambda: dist.init_process_group("gloo", None, timeout, plan.n_ranks, rank, store))
    while True:
        _answer(connection, calls.get())


def _watch(connection: Connection, calls: queue.SimpleQueue) -> None:
    """In a thread of its own: take calls, tell where the main thread stands, end with the socket.

    Gloo lets other threads run while it waits, so this one can look at the main thread's stack in the middle of a hang.
    """
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked = connection.recv_bytes()
            if asked == b"where":
                stack = traceback.walk_stack(sys._current_frames()[threading.main_thread().ident])
                connection.send(("stands", place_of([*stack][::-1])))
            else:
                calls.put(lambda asked=asked: call(*cloudpickle.loads(asked)))
    os._exit(0)


def call(function: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    """Call the function. What it calls is what `place_of` tells."""
    return function(*args, **kwargs)


def _answer(connection: Connection, work: Callable) -> None:
    """Run `work` and send what it returns, or what it raised and where."""
    rank = os.getpid()
    try:
        result = work()
        try:
            answer = cloudpickle.dumps(("returned", result))
        except Exception as error:
            kind = type(result).__name__
            raise TypeError(f"its result, a {kind}, cannot be sent to the notebook: {error}") from None
    except BaseException as error:
        place = place_of([*traceback.walk_tb(error.__traceback__)])
        answer = cloudpickle.dumps(("raised", type(error).__name__, _said(error), place, traceback.format_exc()))
    sys.stdout.flush()
    if os.getpid() != rank:  # a fork that the work has made: the rank itself answers, and once
        os._exit(0)
    connection.send_bytes(answer)


def _said(error: BaseException) -> str:
    """Its message. Some have one that raises in its turn."""
    try:
        return str(error)
    except Exception as another:
        return f"its message cannot be read: {type(another).__name__}"


def cores_note(n_ranks: int, threads: int) -> str:
    """One line if so many ranks of so many threads have to take turns on this machine's cores, else empty."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if n_ranks * threads <= n_cores:
        return ""
    turns = f"{n_ranks} ranks of {threads} thread(s) take turns on {n_cores} core(s)"
    return f"{turns}: results are right, times are not a cluster's"


def place_of(stack: list) -> Place:
    """The place of a stack of (frame, line), the outermost first."""
    return own_calls([(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in stack])


def own_calls(calls: list[tuple[str, int, str]]) -> Place:
    """The place of a stack of (file, line, function): the called function's and what it calls, without torch's own.

    The collective is the first function of torch.distributed that the innermost of these has called.
    """
    import torch
    import torch.distributed as dist

    libraries = (str(Path(torch.__file__).parent), str(Path(contextlib.__file__).parent) + os.sep)
    begin = next((i + 1 for i, (file, _, name) in enumerate(calls) if (file, name) == (__file__, "call")), len(calls))
    own = [i for i in range(begin, len(calls)) if not calls[i][0].startswith(libraries)]
    if not own:
        return Place(())
    inner = [name for _, _, name in calls[own[-1] + 1 :]]
    return Place(tuple(calls[i] for i in own), next((name for name in inner if hasattr(dist, name)), ""))
