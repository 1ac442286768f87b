"""How much more a server tells many clients than one: tokens a second over HTTP.

A checkpoint of random weights (the sizes of llama2.c's models) is served in a process of its own;
clients are threads of this one, each with its own connection, and ask for streamed completions of
the same length one after the other. In each round one client has the server for itself, and then
all have it together; the figure is the median of the rounds' ratios, over the wall clock, and
beside it the same for tokens a second of the server's CPU time, which other programs disturb less.
Tokens are those that the server counts in `usage`; a request's time begins before it is sent.

- `--clients 1,4,16`: how many ask at a time; the first is what the others are compared to.
- `--prompt 16 --tokens 128`: tokens of prompt and text. All prompts differ.
- `--temperature 1`: draws instead of the likeliest token.
- `--shared 256`: tokens that all prompts begin with, for the time to the first token.

Run it:  python benchmarks/serving.py [--preset 15m] [--rounds 3] [--threads 1] [--weights int8]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

__all__ = ["ask", "load", "main"]

SERVER = """
import sys, torch
from paragone.language import Llama, LlamaConfig, serve
from paragone.language.config import PRESETS
from paragone.language.tokenizer import Tokenizer
preset, threads, weights, backend, batch = sys.argv[1:]
tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog"] * 9, 300)
sizes = {"vocab_size": 32000, **PRESETS[preset], "max_position_embeddings": 1024}
sizes |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
model = Llama(LlamaConfig(**sizes), generator=torch.Generator().manual_seed(0))
class Whole(Tokenizer):
    vocab_size = 32000
    def token_bytes(self, id):
        return b" w%d" % id
    def stream(self, *, after=()):
        return Words()
class Words:
    def push(self, id):
        return " w%d" % id
    def flush(self):
        return ""
tokenizer.__class__ = Whole
serve(model, tokenizer, port=0, name="m", threads=int(threads) or None, weights=weights,
      backend=backend, batch=int(batch))
"""


def ask(port: int, body: dict) -> tuple[int, float, float]:
    """Tokens of one streamed answer, seconds to the first of them, seconds in all."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    first, last = 0.0, b""
    for line in answer:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begun
            last = line
    connection.close()
    usage = json.loads(last[6:])["usage"]
    return usage["completion_tokens"], first, time.perf_counter() - begun


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its threads so far (Linux)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, pid: int, clients: int, requests: int, make: dict, shared: list[int]) -> dict:
    """Many clients at once: tokens a second, a CPU second, and the time to the first token."""
    results, source = [], random.Random(clients)
    prompts = [
        [
            shared + [source.randrange(3, 290) for _ in range(make["prompt"])]
            for _ in range(requests)
        ]
        for _ in range(clients)
    ]

    def work(mine: list[list[int]]) -> None:
        for prompt in mine:
            body = {"model": "m", "prompt": prompt, "max_tokens": make["tokens"], "stream": True,
                    "temperature": make["temperature"], "ignore_eos": True,
                    "stream_options": {"include_usage": True}}  # fmt: skip
            results.append(ask(port, body))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in prompts]
    begun, cpu = time.perf_counter(), cpu_of(pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - begun, cpu_of(pid) - cpu
    total = sum(tokens for tokens, _, _ in results)
    return {
        "rate": total / seconds,
        "cpu": total / max(cpu, 1e-9),
        "first": statistics.median(first for _, first, _ in results),
    }


def main() -> None:
    """Starts the server, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="15m")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--shared", type=int, default=0)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    clients = [int(word) for word in options.clients.split(",")]
    shared = [random.Random(0).randrange(3, 290) for _ in range(options.shared)]
    source = Path(__file__).resolve().parents[1] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "server.py"
        script.write_text(SERVER, encoding="utf-8")
        server = subprocess.Popen(
            [sys.executable, str(script), options.preset, str(options.threads), options.weights,
             options.backend, str(options.batch)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split("/v1")[0].rsplit(":", 1)[1])
            measure(port, server.pid, clients, options, shared)
        finally:
            server.terminate()
            server.wait()


def measure(
    port: int, pid: int, clients: list[int], options: argparse.Namespace, shared: list[int]
) -> None:
    """Rounds of one client and of many, in turn."""
    make = {"prompt": options.prompt, "tokens": options.tokens, "temperature": options.temperature}
    load(port, pid, max(clients), 1, {**make, "tokens": 8}, shared)
    rounds = [
        {count: load(port, pid, count, options.requests, make, shared) for count in clients}
        for _ in range(options.rounds)
    ]
    print(f"{options.preset} {options.weights}, prompts of {options.shared + options.prompt}, "
          f"texts of {options.tokens} tokens, temperature {options.temperature:g}")  # fmt: skip
    print("clients  tokens/s  ratio  tokens/CPU s  ratio  first token")
    for count in clients:
        rate, cpu, first = (
            statistics.median(found[count][key] for found in rounds)
            for key in ("rate", "cpu", "first")
        )
        ratio, cheaper = (
            statistics.median(found[count][key] / found[clients[0]][key] for found in rounds)
            for key in ("rate", "cpu")
        )
        print(f"{count:7}  {rate:8.1f}  {ratio:5.2f}  {cpu:12.1f}  {cheaper:5.2f}  "
              f"{1000 * first:7.0f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
