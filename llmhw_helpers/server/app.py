"""The server's pages, on Starlette: read a request, hand it to the worker, send what comes back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import nullcontext

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .fields import Refused
from .hosts import KnownHosts
from .metrics import CONTENT_TYPE, ServingMetrics
from .protocol import Ask, check_model, read_ask, read_json
from .replies import DONE, Reply, error_of, event, model_card
from .worker import STOPPED, Job, Piece, Worker

MAX_BODY = 1 << 20  # bytes
DRAINED = 16 * MAX_BODY  # of a larger body so much is read all the same: most clients listen only after they have sent
LONG_BODY = 1 << 15  # bytes; longer ones are read one after the other
BODY_SECONDS = 30.0  # a body has to be here by then


def new_app(worker: Worker, name: str, hosts: Collection[str] | None = None) -> Starlette:
    """The pages for `worker`, whose model goes by `name`, at any address; with `hosts`, behind `KnownHosts`."""
    pages = _Pages(worker, name)
    routes = [
        Route("/health", pages.answering(pages.health), methods=["GET"]),
        Route("/metrics", pages.answering(pages.metrics), methods=["GET"]),
        Route("/v1/models", pages.answering(pages.models), methods=["GET"]),
        Route("/v1/models/{name:path}", pages.answering(pages.model), methods=["GET"]),
        Route("/v1/completions", pages.answering(pages.completions), methods=["POST"]),
        Route("/v1/chat/completions", pages.answering(pages.chat), methods=["POST"]),
    ]
    known = [] if hosts is None else [Middleware(KnownHosts, names=hosts)]
    app = Starlette(routes=routes, middleware=known, exception_handlers={HTTPException: _no_such_page})
    app.router.redirect_slashes = False
    return app


class _Pages:
    def __init__(self, worker: Worker, name: str):
        engine = worker.engine
        self._worker, self._name, self._created = worker, name, int(time.time())
        room = engine.blocks.n_blocks * engine.blocks.block_size + 1  # the last new token is never read
        self._longest = min(engine.served.spec.context_length, room)
        self._one_long = asyncio.Semaphore(1)
        self._metrics = ServingMetrics(worker, name)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def health(self, request: Request) -> Response:
        worker, blocks = self._worker, self._worker.engine.blocks
        status = worker.failed or (STOPPED if worker.closing else "ok")
        said = {"status": status, "model": self._name, "n_open": worker.n_open}
        said |= {"n_blocks": blocks.n_blocks, "n_free": blocks.n_free, "last_failure": worker.last_failure}
        if (spill := worker.engine.spill) is not None:
            counts = {name: getattr(spill, name) for name in ("n_spilled", "n_reloaded", "n_missed")}
            folder = {name: getattr(spill.folder, name) for name in ("n_damaged", "n_dropped", "n_deleted", "failed")}
            said["kv_folder"] = {"path": str(spill.folder.path)} | counts | folder
        return _json(said, 500 if worker.failed else 503 if worker.closing else 200)

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [model_card(self._name, self._created)]})

    async def model(self, request: Request) -> Response:
        check_model(request.path_params["name"], [self._name])
        return _json(model_card(self._name, self._created))

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _answer(self, request: Request, chat: bool) -> Response:
        self._worker.check()
        body = await _body(request)
        arrived = time.perf_counter()
        with self._worker.reading():
            ask = await _while_connected(request, asyncio.ensure_future(self._read(body, chat)))
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()
        job = self._worker.submit(
            ask.prompts,
            ask.n_new,
            lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece),
            ask.sampling,
            n=ask.n,
            arrived=arrived,
        )
        reply, handed_over = Reply(ask, self._name), False
        try:
            await _while_connected(request, asyncio.wrap_future(job.accepted))
            if ask.stream:
                handed_over = True
                return _Stream(_events(reply, pieces), self._worker, job)
            return _json(await _while_connected(request, asyncio.ensure_future(_whole(reply, pieces))))
        finally:
            if not handed_over:
                self._worker.cancel(job)

    def answering(self, page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`page`, with every error in OpenAI's form."""

        async def answer(request: Request) -> Response:
            try:
                return await page(request)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:
                status, said = error_of(error)
                self._metrics.refused(status)
                return _json(said, status, {"Retry-After": "1"} if status == 429 else None)

        return answer

    async def _read(self, body: bytes, chat: bool) -> Ask:
        """In a thread beside this one: long texts take a while, and hold up each other but nobody else."""
        async with self._one_long if len(body) > LONG_BODY else nullcontext():
            return await run_in_threadpool(self._read_now, body, chat)

    def _read_now(self, body: bytes, chat: bool) -> Ask:
        return read_ask(read_json(body), chat, self._worker.engine.tokenizer, [self._name], self._longest)


class _Stream(StreamingResponse):
    """Events of a job, which ends with the response, however that ends."""

    def __init__(self, events: AsyncIterator[str], worker: Worker, job: Job):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nobody on the way shall hold them back
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._worker, self._job = worker, job

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._job)


async def _events(reply: Reply, pieces: asyncio.Queue) -> AsyncIterator[str]:
    yield "".join(map(event, reply.opening()))
    while not reply.done:
        piece = await pieces.get()
        if isinstance(piece, Exception):
            yield event(error_of(piece)[1])
            return
        reply.add(piece)
        yield "".join(map(event, reply.chunks(piece)))
    yield "".join(map(event, reply.closing())) + DONE


async def _whole(reply: Reply, pieces: asyncio.Queue) -> dict:
    while not reply.done:
        piece: Piece | Exception = await pieces.get()
        if isinstance(piece, Exception):
            raise piece
        reply.add(piece)
    return reply.whole()


async def _while_connected(request: Request, work: asyncio.Future) -> object:
    """What `work` comes to; it is cancelled if the client goes away before."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of a foreign site cannot send this without being asked first
        raise Refused("the body has to be JSON: send the header Content-Type: application/json")
    body, n_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes <= MAX_BODY:
                    body += chunk
                elif n_bytes > DRAINED:
                    break
    except TimeoutError:
        raise Refused(f"the body did not come within {BODY_SECONDS:.0f} seconds", status=408) from None
    if n_bytes > MAX_BODY:
        raise Refused(f"the body has more than {MAX_BODY} bytes", status=413)
    return bytes(body)


async def _no_such_page(request: Request, error: HTTPException) -> Response:
    headers = error.headers or {}
    if error.status_code == 405:
        methods = " or ".join(sorted(headers["Allow"].split(", ")))
        said = f"{request.method} is not possible here; use {methods}"
    else:
        said = "there is no such path: try /v1/models, /v1/completions, /v1/chat/completions, /health or /metrics"
    return _json(error_of(Refused(said, status=error.status_code))[1], error.status_code, headers)


def _json(content: dict, status: int = 200, headers: dict | None = None) -> Response:
    # Written in ASCII, as a model's or a client's text may hold what is no UTF-8.
    return Response(json.dumps(content), status, headers, "application/json")
