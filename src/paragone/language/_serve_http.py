"""The routes: OpenAI's API over HTTP, with health and metrics.

The event loop only reads requests and writes answers. Texts become tokens in a thread of their
own, one request after the other, so that a long prompt or a slow template holds up neither the
loop nor the engine. While an answer is written, the connection is watched: when the client
leaves, its job is cancelled.

References:
    WHATWG HTML, section 9.2 (server-sent events); Prometheus text format 0.0.4.

Shapes: none.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from paragone.language._serve_choice import Failure, Update
from paragone.language._serve_model import Served
from paragone.language._serve_replies import Asked, Reply, event
from paragone.language._serve_runner import Runner

__all__ = ["Api"]

_MOST_BYTES = 8 << 20
_METRICS = {
    "requests": "Requests that were taken.",
    "cancelled": "Requests whose client left.",
    "failed": "Texts that failed.",
    "preemptions": "Sequences that gave their pages away for a while.",
    "steps": "Calls of the engine.",
    "tokens": "Tokens that the engine has read.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that needed no reading.",
    "drawn_tokens": "Tokens that were drawn.",
    "drafted_tokens": "Tokens that were guessed ahead.",
    "agreed_tokens": "Guessed tokens that the model agreed to.",
    "draft_failures": "Texts that go on without guesses, since these failed.",
    "first_tokens": "Texts that have begun.",
    "first_token_seconds": "Seconds from requests to first tokens, added.",
    "texts": "Texts that have ended.",
    "text_seconds": "Seconds from requests to ends of texts, added.",
}


class Api:
    """What answers requests.

    Args:
        models: Models by name.
        limit: Most texts that may be asked for at a time.
        api_key: What clients must show (None: nothing).
        hosts: Names in the Host header that are answered (None: all).
    """

    def __init__(
        self,
        models: Mapping[str, Served],
        limit: int,
        api_key: str | None,
        hosts: Collection[str] | None,
    ) -> None:
        self.models, self._key = dict(models), api_key
        lanes = {name: served.lane for name, served in self.models.items()}
        self.runner = Runner(lanes, limit, self._deliver)
        # One thread: templates and tokenizers need not bear two callers at a time.
        self._reader = ThreadPoolExecutor(1, "paragone-reader")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hosts = hosts
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/models/{name:path}", self._one),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={Failure: _refused, HTTPException: _no_route},
        )

    def close(self) -> None:
        """Ends the thread that reads texts."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, news: list[Update]) -> None:
        if not news or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(_hand_out, news)
        except RuntimeError:
            # The loop has ended; nobody waits for news.
            self._loop = None

    def _allow(self, request: Request) -> None:
        # A page in the browser must not get here by a name of its own that points to the loopback.
        if self._hosts is not None and request.url.hostname not in self._hosts:
            raise Failure(f"{request.url.hostname} is no name of this server", 421)
        if self._key is None:
            return
        shown = request.headers.get("authorization", "")
        if not secrets.compare_digest(shown.encode(), f"Bearer {self._key}".encode()):
            raise Failure("the API key is missing or wrong", 401, code="invalid_api_key")

    async def _list(self, request: Request) -> Response:
        self._allow(request)
        return JSONResponse({"object": "list", "data": [_card(m) for m in self.models.values()]})

    async def _one(self, request: Request) -> Response:
        self._allow(request)
        return JSONResponse(_card(self._served(request.path_params["name"])))

    async def _health(self, request: Request) -> Response:
        good = self.runner.alive
        return JSONResponse({"status": "ok" if good else "stopping"}, 200 if good else 503)

    async def _metrics(self, request: Request) -> Response:
        self._allow(request)
        return PlainTextResponse(self._metrics_text(), media_type="text/plain; version=0.0.4")

    async def _completions(self, request: Request) -> Any:
        return await self._answer(request, "completion")

    async def _chat(self, request: Request) -> Any:
        return await self._answer(request, "chat")

    def _served(self, name: Any) -> Served:
        if not isinstance(name, str):
            raise Failure("model: the name of a model is expected", param="model")
        if name not in self.models:
            raise Failure(
                f"there is no model {name[:80]!r}; there is {', '.join(self.models)}", 404,
                param="model", code="model_not_found",
            )  # fmt: skip
        return self.models[name]

    async def _answer(self, request: Request, kind: str) -> Any:
        self._allow(request)
        data = await _body(request)
        loop = self._loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(self._reader, self._asked, kind, data)
        asked.job.receiver = queue = asyncio.Queue()
        self.runner.submit(asked.model, asked.job)
        return _Answer(asked, queue, lambda: self.runner.cancel(asked.job))

    def _asked(self, kind: str, data: bytes) -> Asked:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Failure(f"the body is no JSON: {error}") from error
        name = body.get("model") if isinstance(body, dict) else None
        return self._served(name).asked(kind, body)

    def _metrics_text(self) -> str:
        lines = []

        def tell(name: str, kind: str, words: str, values: Mapping[str, float]) -> None:
            lines.extend((f"# HELP paragone_{name} {words}", f"# TYPE paragone_{name} {kind}"))
            lines.extend(f"paragone_{name}{labels} {value}" for labels, value in values.items())

        lanes = {f'{{model="{_label(name)}"}}': served.lane for name, served in self.models.items()}
        for name, words in _METRICS.items():
            counts = {label: lane.counts[name] for label, lane in lanes.items()}
            tell(f"{name}_total", "counter", words, counts)
        gauges: dict[str, tuple[str, Callable[[Any], int]]] = {
            "running": ("Texts that are being written.", lambda lane: len(lane.running)),
            "waiting": ("Texts that wait.", lambda lane: len(lane.waiting)),
            "pages": ("Pages of keys and values.", lambda lane: lane.pages.count),
            "pages_available": ("Pages that can be had.", lambda lane: lane.pages.available),
            "pages_idle": ("Pages kept for prefixes.", lambda lane: lane.pages.idle),
        }
        for name, (words, read) in gauges.items():
            tell(name, "gauge", words, {label: read(lane) for label, lane in lanes.items()})
        tell("refused_total", "counter", "Requests above the limit.", {"": self.runner.refused})
        return "\n".join(lines) + "\n"


class _Answer:
    """An answer that is being written; an ASGI application.

    Args:
        asked: What was asked.
        queue: Where news arrive; None: the client has left.
        cancel: Called if the answer is not wanted any more.
    """

    def __init__(
        self, asked: Asked, queue: asyncio.Queue[Update | None], cancel: Callable[[], None]
    ) -> None:
        self._reply, self._queue, self._cancel = Reply(asked), queue, cancel
        self._stream, self._left = asked.job.stream, False

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]
    ) -> None:
        leaving = asyncio.create_task(_left(receive))
        leaving.add_done_callback(self._leave)
        try:
            if self._stream:
                await self._send_events(send)
            else:
                response = await self._whole()
                if response is not None:
                    await response(scope, receive, send)
        finally:
            leaving.cancel()
            if not self._reply.complete:
                self._cancel()

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._left = True
        self._queue.put_nowait(None)

    async def _whole(self) -> Response | None:
        while not self._reply.complete:
            update = await self._queue.get()
            if update is None:
                return None
            if update.failure is not None:
                return _json(update.failure)
            self._reply.take(update)
        return JSONResponse(self._reply.whole())

    async def _send_events(self, send: Callable[[Any], Any]) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"),
                   (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]  # fmt: skip
        update = await self._queue.get()
        if update is not None and update.failure is not None:
            # Nothing was sent yet: an error can still be told as one.
            body = json.dumps(update.failure.body()).encode()
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": update.failure.status,
                        "headers": headers})  # fmt: skip
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ended = False
        while not ended and not self._left and update is not None:
            data = []
            while update is not None and not ended:
                if update.failure is not None:
                    data.append(event(update.failure.body()))
                else:
                    self._reply.take(update)
                    data += self._reply.pieces(update)
                ended = self._reply.complete or update.failure is not None
                # What has come in the meantime goes along.
                update = None if self._queue.empty() else self._queue.get_nowait()
            if ended:
                data += self._reply.last_pieces()
            if self._left:
                return
            await send({"type": "http.response.body", "body": b"".join(data),
                        "more_body": not ended})  # fmt: skip
            if not ended:
                update = await self._queue.get()


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _hand_out(news: list[Update]) -> None:
    for update in news:
        update.job.receiver.put_nowait(update)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > _MOST_BYTES:
                raise Failure(f"the body has more than {_MOST_BYTES} bytes", 413)
            parts.append(part)
    except ClientDisconnect as error:
        raise Failure("the client left", 400) from error
    return b"".join(parts)


def _json(failure: Failure) -> Response:
    headers = {429: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}
    return JSONResponse(failure.body(), failure.status, headers.get(failure.status))


async def _refused(request: Request, failure: Any) -> Response:
    return _json(failure)


async def _no_route(request: Request, error: Any) -> Response:
    words = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(Failure(words).body(), error.status_code, error.headers)


def _card(served: Served) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": served.created,
            "owned_by": "paragone", "max_model_len": served.context}  # fmt: skip


def _label(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
