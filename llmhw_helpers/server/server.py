"""A model as a server that speaks OpenAI's language: for a notebook, and as a command (``llmhw-serve``).

Clients that are written for it meet the same paths, fields and answers at vLLM on a cluster.
"""

import argparse
import asyncio
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

import psutil
import torch

from ..commands import put_out
from ..costs.inference import kv_bytes
from ..llm.checkpoints import BadModelFile, ModelNotFound, find_model, load_model, open_checkpoint
from ..llm.tokenizer import load_tokenizer
from ..llm.transformer import NotThisFamily
from ..serving.decoding import decoder_of
from ..serving.engine import Engine
from ..serving.kv_folder import KVFolder
from ..serving.mapped import ServedFile
from ..serving.weights import Served
from .interrupts import Interrupts
from .listening import LOCAL, Listening, NoPort, bind, is_local, url_of
from .options import DTYPES, KV_GB, PROGRAM
from .signals import Signals
from .worker import Worker

LAST_SECONDS = 5  # that clients have to read what they are told as the server ends


class NotInstalled(ImportError):
    """The server's libraries are missing; the message says how to get them."""


REFUSALS = (NotInstalled, NoPort, ModelNotFound, BadModelFile, NotThisFamily, ValueError)  # one line says enough


@contextmanager
def served_at(
    engine: Engine,
    *,
    name: str | None = None,
    host: str = LOCAL,
    port: int = 0,
    max_open: int = 64,
    hosts: Collection[str] = (),
) -> Iterator[str]:
    """Serve `engine` from a thread of this process as long as the context lasts; gives the URL for a client.

    Args:
        engine: with a tokenizer. Leave it to the server meanwhile.
        name: of the model; by default its architecture's.
        host, port: where to listen; port 0 is a free one.
        max_open: answers that are being written or waited for, at most.
        hosts: names that clients may call it by, besides localhost. Where others than this machine can reach it, any
            name will do unless some are given.

    Raises:
        NotInstalled: Starlette or uvicorn is missing.
        NoPort: somebody listens there, or nobody may.
        ValueError: an engine without a tokenizer.
    """
    _libraries()
    with bind(host, port) as listening:
        worker = Worker(engine, max_open)
        ready, stop = threading.Event(), threading.Event()
        serve = _serve(worker, name or engine.served.spec.name, listening, hosts, ready.set, stop.is_set)
        thread = threading.Thread(target=asyncio.run, args=(serve,), name="server", daemon=True)
        thread.start()
        try:
            while not ready.wait(0.1):
                if not thread.is_alive():
                    raise RuntimeError("the server ended before it was ready")
            yield url_of(listening)
        finally:
            stop.set()
            thread.join()
            worker.close()


def model_name(path: Path) -> str:
    """What to call the model at `path`: a file's name without its format, or a folder's.

    >>> model_name(Path("models/SmolLM2-135M-Instruct.Q4_1.gguf")), model_name(Path("Llama-3.2-1B"))
    ('SmolLM2-135M-Instruct', 'Llama-3.2-1B')
    """
    if path.parent.name == "snapshots":  # a hash, in Hugging Face's cache: the name is two folders up
        return path.parents[1].name.split("--")[-1]
    return re.sub(r"([.-](I?Q\d\w*|B?F16|F32))?\.gguf$", "", path.name, flags=re.IGNORECASE)


def run(options: argparse.Namespace, interrupts: Interrupts, loaded: Callable[[], None] = lambda: None) -> None:
    """Serve as `options` say until somebody ends it, also while it starts.

    Args:
        options: see `options.new_parser`.
        interrupts: what is heard meanwhile.
        loaded: is called once, when all is there and nobody is served yet.

    Raises:
        one of `REFUSALS`: in one line, what cannot be.
        KeyboardInterrupt: it was interrupted as it started.
    """
    _libraries()
    with bind(options.host, options.port) as listening:
        if not is_local(listening):
            put_out(PROGRAM, f"Warning: whoever reaches {options.host} over the network may use this server.")
        engine, name = _load(options)
        interrupts.check()
        worker = Worker(engine, options.max_open)
        loaded()
        signals = Signals(worker, options.grace)
        said = f"{name} is served at {url_of(listening)} (Ctrl-C ends it)"

        def ready() -> None:
            signals.listen()
            put_out(PROGRAM, said)  # who serves goes on, whether it can be read or not

        try:
            asyncio.run(_serve(worker, name, listening, options.allow_host, ready, signals.stopped))
        finally:
            worker.close()


def _libraries() -> tuple[ModuleType, Callable, type]:
    """What serves: asked for only here, so that the rest of the package does without."""
    try:
        import uvicorn

        from .app import new_app
        from .connections import Connection
    except ModuleNotFoundError as error:
        raise NotInstalled(f"the server needs {error.name}: pip install 'llmhw-helpers[server]'") from None
    return uvicorn, new_app, Connection


async def _serve(
    worker: Worker,
    name: str,
    listening: Listening,
    hosts: Collection[str],
    ready: Callable[[], object],
    stopped: Callable[[], bool],
) -> None:
    """Until `stopped` says so; `ready` is called as soon as clients are answered."""
    uvicorn, new_app, connection = _libraries()
    settings = {"log_config": None, "log_level": "critical", "access_log": False, "lifespan": "off"}
    settings |= {"http": connection, "ws": "none", "loop": "asyncio", "timeout_graceful_shutdown": LAST_SECONDS}
    app = new_app(worker, name, hosts if hosts or is_local(listening) else None)
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    server.capture_signals = nullcontext  # it would end the process by the signal that it was told
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    while not (server.should_exit or serving.done()):
        await asyncio.sleep(0.05)
        if stopped():
            break
    await asyncio.to_thread(worker.close)  # whoever still waits is told before the connections are closed
    server.should_exit = True
    await serving


def _load(options: argparse.Namespace) -> tuple[Engine, str]:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here: leave out --device cuda")
    torch.set_num_threads(options.threads)
    path = find_model()
    n_tokens, short = options.n_blocks * options.block_size, DTYPES[options.dtype][0]
    need, free = kv_bytes(open_checkpoint(path).spec, n_tokens, short), psutil.virtual_memory().available
    if options.device == "cpu" and need > free:
        raise ValueError(f"{n_tokens} tokens of KV cache are {need / 1e9:.1f} GB, and {free / 1e9:.1f} are free")
    kv_folder = None
    if options.kv_dir is not None:
        if not options.kv_dir.strip():  # a shell's variable that is not set
            raise ValueError("--kv-dir names no folder: it is empty")
        kv_folder = KVFolder(options.kv_dir, getattr(options, "kv_gb", KV_GB) * 1e9)
    elif hasattr(options, "kv_gb"):
        raise ValueError("--kv-gb says how large the folder of --kv-dir may become: give both, or neither")
    served = _served(options, path)
    decoder_of(served)  # now, or the first client would wait for the compiler
    engine = Engine(
        served,
        options.n_blocks,
        options.block_size,
        max_batch_size=options.max_batch_size,
        max_step_tokens=max(256, options.max_batch_size),
        tokenizer=load_tokenizer(path),
        kv_folder=kv_folder,
    )
    return engine, model_name(path)


def _served(options: argparse.Namespace, path: Path) -> Served:
    compiled = getattr(options, "compiled", None)
    if options.weights == "loaded":
        model = load_model(path, DTYPES[options.dtype][1], options.device, progress=False)
        return Served(model, compiled=compiled)
    if options.device != "cpu" or options.dtype != "float32" or compiled is False:
        how = "with --device cpu, and without --dtype and --no-compiled"
        raise ValueError(f"--weights file is for the compiled step, on a CPU and in float32: give it {how}")
    return ServedFile(path)


def __getattr__(name: str) -> object:
    if name == "main":  # an installed script may name its old place
        return import_module("llmhw_helpers.server.cli").main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
