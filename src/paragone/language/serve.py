r"""A server that any OpenAI client talks to, with many clients in one batch.

Reading the weights is what a step of decoding costs, and it costs the same for one text and for
some: with S clients in a step, each gets its token after T(S), and together they get

$$ \frac{S}{T(S)} \gg \frac{1}{T(1)} . $$

So texts join and leave the batch at every step, prompts are read in pieces between the steps of
the others, and keys and values lie in pages, which are handed out as texts grow, shared where
texts begin alike (a system prompt is read once), and free at once when a client leaves.

What a text says depends on its request alone: draws follow from its seed and the number of the
token, and the engine's sums from no neighbour. A request that fails does so alone.

With `speculate` each text may bring guessed tokens into a step and leave it with several at once:
what helps a few clients, and is left out where many fill a step with certain tokens.

Cost: a step of the engine for up to `batch` tokens of text and `chunk` tokens of prompts.

References:
    Yu et al. (2022), Orca, OSDI 22, section 3 (batches that change at every step).
    Kwon et al. (2023), PagedAttention, arXiv:2309.06180, section 4 (pages, sharing, preemption).
    OpenAI API reference (routes, fields, errors).

Shapes: S texts in a step.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, Self

from paragone._core.errors import MissingPackageError

__all__ = ["Server", "serve"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Any,
    tokenizer: Any = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    adapters: Mapping[str, Any] | None = None,
    chat_template: Any = None,
    api_key: str | None = None,
    context: int | None = None,
    batch: int = 32,
    chunk: int = 256,
    memory: float | None = None,
    page_size: int = 16,
    waiting: int = 256,
    grace: float = 10.0,
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: Any = None,
    draft: Any = "auto",
    background: bool = False,
) -> Server | None:
    """Serves a model to OpenAI clients until Ctrl-C, or in the background.

    Routes: /v1/models, /v1/completions, /v1/chat/completions, /health, /metrics. Besides OpenAI's
    fields a request may have top_k, min_p, typical_p, repetition_penalty, stop_token_ids and
    ignore_eos.

    Prefer it to calling `generate` from several threads, and for a list of prompts that arrive
    over time; for a list that is there at once `generate` does the same without HTTP.

    Args:
        model: A `Llama`, or the path of one.
        tokenizer: Its tokenizer, or a path (None: what lies beside the model).
        host: Address to listen on; anything but the loopback should have an `api_key`.
        port: TCP port; 0 takes any free one.
        name: What clients call the model (None: the name of its folder, or "paragone").
        adapters: Further models by name, each a LoRA folder for `model`, or a `Llama`; each has
            weights and pages of its own.
        chat_template: A `ChatTemplate`, its name, or None for the tokenizer's own.
        api_key: What clients must show (None: the environment variable PARAGONE_API_KEY, or
            nothing).
        context: Most tokens of prompt and text (None: what the model is made for).
        batch: Most texts in a step.
        chunk: Most tokens in a step.
        memory: Bytes for keys and values of each model (None: enough for `batch` texts of full
            length, but at most a quarter of the machine's free memory).
        page_size: Tokens of a page.
        waiting: Texts that may wait beside those in the batch; more requests get status 429.
        grace: Seconds that texts may go on after Ctrl-C; a second Ctrl-C ends them at once.
        backend: As in `Engine.make`.
        weights: As in `Engine.make`.
        threads: As in `Engine.make`.
        speculate: Who guesses tokens ahead, for adapters too: "prompt-lookup", a `Drafter`, a
            smaller `Llama` of the same vocabulary, or a folder of heads or of such a model (None:
            nobody). Texts stay the same for the same seed, or with drawn drafts their distribution.
        draft: How much is guessed: "auto" (what pays here by the clock, or nothing), a number of
            tokens, or a `Plan`.
        background: Return a running `Server` instead of waiting for Ctrl-C.

    Raises:
        MissingPackageError: starlette or uvicorn is not installed.
        ValueError: A value out of its range, or a port that cannot be had.

    Example:
        >>> from paragone.language import Llama, LlamaConfig, Tokenizer
        >>> words = Tokenizer.train(["low lower"] * 9, 264)
        >>> model = Llama(LlamaConfig(264, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> with serve(model, words, port=0, background=True) as server: print(*server.models)
        paragone
    """
    from paragone.language._serve_loading import served_models

    _check_packages()
    server = Server(
        served_models(
            model, tokenizer, name=name, adapters=adapters, chat_template=chat_template,
            context=context, batch=batch, chunk=chunk, memory=memory, page_size=page_size,
            most=batch + waiting, backend=backend, weights=weights, threads=threads,
            speculate=speculate, draft=draft,
        ),
        host, port, api_key=api_key or os.environ.get("PARAGONE_API_KEY") or None,
        limit=batch + waiting, grace=grace,
    )  # fmt: skip
    if background:
        return server.start()
    server.run()
    return None


class Server:
    """A server and its models; `serve` makes one.

    Use it as a context, or call `start` and `stop`; `run` waits for Ctrl-C.

    Args:
        models: `Served` by name.
        host: Address to listen on.
        port: TCP port; 0 takes any free one.
        api_key: What clients must show (None: nothing).
        limit: Most texts that may be asked for at a time.
        grace: Seconds that texts may go on after the end was asked for.

    Raises:
        MissingPackageError: starlette or uvicorn is not installed.
        ValueError: The port cannot be had.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        api_key: str | None = None,
        limit: int = 288,
        grace: float = 10.0,
    ) -> None:
        _check_packages()
        from paragone.language._serve_http import Api

        self._socket = _listen(host, port)
        self.host, self.port, self.grace = host, self._socket.getsockname()[1], grace
        self.models = dict(models)
        loopback = host in LOOPBACK
        self.api = Api(self.models, limit, api_key, LOOPBACK if loopback else None)
        self.guarded = loopback or api_key is not None
        self._uvicorn: Any = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where to reach it, without /v1."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def __repr__(self) -> str:
        return f"Server({self.url})"

    def run(self) -> None:
        """Serves until Ctrl-C."""
        from paragone.language.chat import NAMED

        print(f"{', '.join(self.models)}: {self.url}/v1, stop with Ctrl-C", flush=True)
        for name, served in self.models.items():
            if getattr(served.template, "template", None) == NAMED["plain"]:
                print(f"paragone: chats with {name} are written as User: and Assistant:",
                      file=sys.stderr)  # fmt: skip
        if not self.guarded:
            print(f"paragone: whoever reaches {self.host} may use it; api_key would prevent that",
                  file=sys.stderr)  # fmt: skip
        try:
            self._serve()
        except KeyboardInterrupt:
            print("stopped")

    def start(self) -> Self:
        """Serves in the background; returns when requests are taken."""
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(ready,), name="paragone-http", daemon=True
        )
        self._thread.start()
        ready.wait()
        return self

    def stop(self, grace: float = 0.0) -> None:
        """Ends a server that was started.

        Args:
            grace: Seconds that texts may go on.
        """
        if self._thread is None:
            return
        self.grace = grace
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _serve(self, ready: threading.Event | None = None) -> None:
        import uvicorn

        outer = self

        class Graceful(uvicorn.Server):
            """Lets texts end while connections are being closed."""

            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                if ready is not None:
                    ready.set()

            async def shutdown(self, sockets: Any = None) -> None:
                ending = asyncio.create_task(asyncio.to_thread(outer._end, self))
                await super().shutdown(sockets)
                await ending

            def handle_exit(self, sig: int, frame: Any) -> None:
                super().handle_exit(sig, frame)
                if self.force_exit:
                    outer.grace = 0.0
                    outer.api.runner.hurry()

        # A configuration of its own would close the log handlers of the whole program.
        config = uvicorn.Config(
            self.api.app, log_config=None, log_level="warning", access_log=False, lifespan="off",
            timeout_keep_alive=60, timeout_graceful_shutdown=round(self.grace) + 5,
        )  # fmt: skip
        self._uvicorn = Graceful(config)
        self.api.runner.start()
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            if ready is not None:
                ready.set()
            self.api.runner.stop()
            self.api.close()
            self._socket.close()

    def _end(self, server: Any) -> None:
        self.api.runner.stop(0.0 if server.force_exit else self.grace)


def _check_packages() -> None:
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"serving needs {package}: pip install 'paragone[serve]'")


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise ValueError(f"port={port}: 0 to 65535 is expected; 0 takes any free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening at once: a port that another server has is refused here, not later.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"{host}:{port} cannot be listened on ({error.strerror}); try another port, or port 0"
        ) from error
    return listener
