"""The server, asked by OpenAI's own client over a real socket."""

import contextlib
import http.client
import json
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from paragone.language._serve_lane import Lane
from paragone.language._serve_model import Served
from paragone.language.chat import ChatTemplate
from paragone.language.sampling import Sampling
from paragone.language.serve import Server

openai = pytest.importorskip("openai", reason="the client is not installed: pip install openai")

MARKED = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% if \
add_generation_prompt %}assistant: {% endif %}"""
ATTACK = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"


def make_model(fake, name="fake", template=MARKED, pages=256, most=16, chunk=64, **engine):
    lane = Lane(fake.FakeEngine(**engine), pages, 4, most, chunk)
    chat = None if template is None else ChatTemplate(template, bos_token="", eos_token="")
    return Served(name, lane, fake.FakeTokenizer(), chat, fake.VOCABULARY, 200,
                  frozenset({fake.EOS}), 8)  # fmt: skip


def make_server(*models, **options):
    return Server({model.name: model for model in models}, port=0, **options)


CLIENTS = []


def client_of(server, key="none"):
    CLIENTS.append(
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)
    )
    return CLIENTS[-1]


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture(scope="module")
def server(fake):
    models = [
        make_model(fake), make_model(fake, "bare", None), make_model(fake, "attack", ATTACK),
        make_model(fake, "endless", ENDLESS), make_model(fake, "poisoned", poison=122),
        make_model(fake, "stops", script=b"one STAR STO"),
        make_model(fake, "signs", script="aé日🎉b".encode()),
        make_model(fake, "cut", script="🎉".encode()[:3] + b"\xff"),
    ]  # fmt: skip
    with make_server(*models) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def raw(server, path, body=None, headers=None, method=None):
    """A request without the client: status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def text_of(fake, prompt, count):
    return bytes(fake.expected(fake.FakeTokenizer().encode(prompt), count)).decode()


def eventually(met):
    end = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_models_health_metrics(server, client):
    assert [model.id for model in client.models.list()][:2] == ["fake", "bare"]
    assert client.models.retrieve("bare").owned_by == "paragone"
    with pytest.raises(openai.NotFoundError, match="there is no model 'x'"):
        client.models.retrieve("x")
    assert json.loads(raw(server, "/health")[2]) == {"status": "ok"}
    status, headers, text = raw(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'paragone_pages{model="fake"} 256\n' in text


def test_a_completion(fake, client):
    answer = client.completions.create(model="fake", prompt="Hello", temperature=0, logprobs=3)
    (choice,) = answer.choices
    assert choice.text == text_of(fake, "Hello", 16)
    assert choice.finish_reason == "length"
    assert (answer.object, answer.model) == ("text_completion", "fake")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 16, 22)
    scores = choice.logprobs
    ids = [fake.BOS, *b"Hello"]
    assert scores.text_offset == list(range(16))
    for at, token in enumerate(scores.tokens):
        assert choice.text[scores.text_offset[at] :].startswith(token)
        row = fake.scores([*ids, *choice.text[:at].encode()]).astype(np.float64)
        logs = row - np.log(np.exp(row).sum())
        assert scores.token_logprobs[at] == pytest.approx(logs[ord(token)], abs=1e-5)
        best = {chr(i): logs[i] for i in np.argsort(-row)[:3]}
        assert scores.top_logprobs[at] == pytest.approx(best, abs=1e-5)


def test_streamed_is_whole(client):
    asked = {"model": "fake", "prompt": ["Hello", "World"], "max_tokens": 9, "n": 2, "seed": 5,
             "temperature": 1.0, "logprobs": 1, "stop": ["dd", "hag"], "echo": True}  # fmt: skip
    whole = client.completions.create(**asked)
    pieces = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": pieces[-1].usage.prompt_tokens_details}
    )
    assert all(piece.usage is None for piece in pieces[:-1])
    assert len({piece.id for piece in pieces}) == 1
    for choice in whole.choices:
        mine = [p.choices[0] for p in pieces[:-1] if p.choices[0].index == choice.index]
        assert "".join(piece.text for piece in mine) == choice.text
        assert [p.finish_reason for p in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
        joined = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece in mine:
            for key, values in joined.items():
                values += getattr(piece.logprobs, key) if piece.logprobs else []
        assert joined == choice.logprobs.model_dump()
        assert choice.text.startswith("Hello" if choice.index < 2 else "World")
    assert whole.choices[0].text != whole.choices[1].text


def test_echo_and_scores_of_a_prompt(fake, client):
    answer = client.completions.create(model="fake", prompt="abc", max_tokens=0, echo=True,
                                       logprobs=1)  # fmt: skip
    (choice,) = answer.choices
    assert choice.text == "abc"
    assert choice.logprobs.tokens == ["", "a", "b", "c"]
    assert choice.logprobs.text_offset == [0, 0, 1, 2]
    assert choice.logprobs.token_logprobs[0] is None
    row = fake.scores([fake.BOS, 97, 98]).astype(np.float64)
    assert choice.logprobs.token_logprobs[3] == pytest.approx(row[99] - np.log(np.exp(row).sum()))
    assert answer.usage.completion_tokens == 0
    plain = client.completions.create(model="fake", prompt=[97, 98], max_tokens=2, echo=True)
    assert plain.choices[0].text.startswith("ab")


def test_draws_follow_from_the_seed_whoever_else_is_there(fake, client):
    def ask(seed):
        answer = client.completions.create(
            model="fake", prompt="Hello", max_tokens=24, temperature=1.3, top_p=0.9, seed=seed
        )
        return answer.choices[0].text

    alone = [ask(seed) for seed in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, [*range(8), *range(8)]))
    assert together == alone * 2
    sampling = Sampling(temperature=1.3, top_p=0.9, seed=3)
    drawn = fake.expected(
        [fake.BOS, *b"Hello"], 24, lambda row, ids, step: sampling.pick(row, ids, step)[0]
    )
    assert alone[3] == bytes(drawn).decode()
    first, second = (
        client.completions.create(model="fake", prompt="Hello", temperature=1.3).choices[0].text
        for _ in range(2)
    )
    assert first != second


def test_knobs_of_sampling(fake, client):
    def ask(**options):
        options = {"model": "fake", "prompt": "Hi", "max_tokens": 12, **options}
        return client.completions.create(**options).choices[0].text

    greedy = text_of(fake, "Hi", 12)
    assert ask(temperature=0) == ask(temperature=2, top_p=0) == greedy
    assert ask(temperature=2, extra_body={"top_k": 1}) == greedy
    assert ask(temperature=0, logit_bias={"97": 100}) == "a" * 12
    assert "a" not in ask(temperature=1, seed=1, logit_bias={"97": -100})
    assert len(set(ask(temperature=0, max_tokens=8, presence_penalty=2, logit_bias={
        str(ord(letter)): 0.0 for letter in "abc"}))) > len(set(greedy[:8])) - 1  # fmt: skip
    flat = ask(temperature=0, max_tokens=8, frequency_penalty=2, presence_penalty=2)
    assert len(set(flat)) >= len(set(greedy[:8]))
    stopped = client.completions.create(
        model="fake", prompt="Hi", temperature=0, extra_body={"stop_token_ids": [ord(greedy[3])]}
    ).choices[0]  # fmt: skip
    assert stopped.text == greedy[: greedy.index(greedy[3])]
    assert stopped.finish_reason == "stop"
    ended = client.completions.create(model="fake", prompt="Hi", logit_bias={str(fake.EOS): 100})
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1


def test_best_of_returns_the_likeliest(client):
    asked = {"model": "fake", "prompt": "Hey", "max_tokens": 6, "temperature": 1, "seed": 3}
    every = client.completions.create(**asked, n=5, logprobs=0).choices
    mean = [sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in every]
    best = client.completions.create(**asked, n=2, best_of=5)
    order = sorted(range(5), key=lambda i: -mean[i])[:2]
    assert [c.text for c in best.choices] == [every[i].text for i in order]
    assert best.usage.completion_tokens == 30
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        client.completions.create(**asked, n=2, best_of=5, stream=True)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["STOP"], "one STAR STOone STAR"), ("STA", "one "), (["R STOo", "zz"], "one STA"),
        (["one STAR STOone STAR!", "TOo"], "one STAR S"), (["e", "n"], "o"),
    ],
    ids=["never", "inside", "across", "held", "earliest"],
)  # fmt: skip
def test_stop_strings_across_tokens(client, stop, text):
    asked = {"model": "stops", "prompt": [97] * 12, "max_tokens": 20, "stop": stop, "logprobs": 0}
    whole = client.completions.create(**asked).choices[0]
    assert whole.text == text
    assert "".join(whole.logprobs.tokens) == text
    assert whole.finish_reason == ("length" if len(text) == 20 else "stop")
    shown = ""
    for piece in client.completions.create(**asked, stream=True):
        shown += piece.choices[0].text
        assert text.startswith(shown)
        # What could still become a stop string is not shown; what cannot is.
    assert shown == text


def test_characters_are_whole_in_a_stream(client):
    text = "aé日🎉b"
    size = len(text.encode())
    pieces = [
        piece.choices[0]
        for piece in client.chat.completions.create(
            model="signs",
            messages=[{"role": "user", "content": "x" * 9}],
            max_tokens=4 * size,
            stream=True,
            logprobs=True,
        )
    ]
    shown = "".join(piece.delta.content or "" for piece in pieces)
    assert "�" not in shown.rstrip("�")
    assert text * 3 in shown + text
    data = [b for p in pieces if p.logprobs for entry in p.logprobs.content for b in entry.bytes]
    assert bytes(data).decode(errors="replace") == shown
    scores = client.completions.create(
        model="signs", prompt=[97] * size, max_tokens=3, logprobs=0
    ).choices[0].logprobs  # fmt: skip
    assert scores.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert scores.text_offset == [0, 1, 1]
    broken = client.completions.create(model="cut", prompt=[97] * 4, max_tokens=3)
    assert broken.choices[0].text == "�"


def test_chat(fake, client):
    messages = [{"role": "developer", "content": "be"},
                {"role": "user", "content": [{"type": "text", "text": "Hel"},
                                             {"type": "text", "text": "lo"}]}]  # fmt: skip
    asked = {"model": "fake", "messages": messages, "temperature": 0, "max_completion_tokens": 7,
             "logprobs": True, "top_logprobs": 2}  # fmt: skip
    whole = client.chat.completions.create(**asked)
    text = text_of(fake, "system: be\nuser: Hello\nassistant: ", 7)
    message = whole.choices[0].message
    assert (message.role, message.content) == ("assistant", text)
    assert whole.usage.completion_tokens == 7
    entries = whole.choices[0].logprobs.content
    assert [entry.token for entry in entries] == list(text)
    assert all(entry.bytes == list(entry.token.encode()) for entry in entries)
    assert all(entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob for entry in entries)
    assert entries[0].logprob == entries[0].top_logprobs[0].logprob
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    assert pieces[-1].choices[0].finish_reason == "length"
    assert [e for p in pieces if p.choices[0].logprobs for e in p.choices[0].logprobs.content] \
        == entries  # fmt: skip
    # No limit was given: the context is the limit.
    full = client.chat.completions.create(model="fake", messages=messages, temperature=0)
    assert full.usage.total_tokens == 200
    assert full.usage.prompt_tokens_details.cached_tokens > 0


def test_tools_pass_through_the_template(fake, client):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    asked = {"model": "fake", "messages": [{"role": "user", "content": "?"}], "temperature": 0,
             "tools": tools, "max_tokens": 5}  # fmt: skip
    told = client.chat.completions.create(**asked).choices[0].message.content
    assert told == text_of(fake, "user: ?\nlook;assistant: ", 5)
    silent = client.chat.completions.create(**asked, tool_choice="none").choices[0].message.content
    assert silent == text_of(fake, "user: ?\nassistant: ", 5)
    with pytest.raises(openai.BadRequestError, match="cannot be made to call"):
        client.chat.completions.create(**asked, tool_choice="required")


def test_templates_are_in_a_sandbox(fake, client):
    for model in ("attack", "endless"):
        with pytest.raises(openai.BadRequestError, match="template could not write"):
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "?"}])
    assert client.completions.create(model="attack", prompt="Hi", temperature=0).choices[0].text \
        == text_of(fake, "Hi", 16)  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="bare has no chat template"):
        client.chat.completions.create(model="bare", messages=[{"role": "user", "content": "?"}])


BAD = {
    "temperature": [-1, 3, "hot", True, float("nan"), [1]], "top_p": [2], "n": [0, 99, 1.5, "2"],
    "max_tokens": [-1, 0, 1000], "stop": ["", ["a", ""], 3, ["x"] * 17], "logprobs": [21, -1],
    "logit_bias": [{"97": 101}, {"x": 1}, {"999": 1}, [1], {"97": True}], "seed": ["a", 1e300],
    "best_of": [0, 1000], "stream": ["yes"], "stream_options": [{"include_usage": True}, 3],
    "suffix": ["end"], "echo": [1], "prompt": [5, [5, "a"], [[]], [], [[999]], {"a": 1}, "x" * 300],
    "unknown": [1], "user_id": ["x"], "model": [3], "repetition_penalty": [0],
    "stop_token_ids": [[-1], "a"], "presence_penalty": [3],
}  # fmt: skip


def test_bad_requests_are_refused_by_name(server):
    for name, values in BAD.items():
        for value in values:
            body = {"model": "fake", "prompt": "Hi", name: value}
            status, _, text = raw(server, "/v1/completions", json.dumps(body))
            error = json.loads(text)["error"]
            assert status == 400, (name, value, text)
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert error["param"] == name, (name, value, error)
    for value in (
        [], "x", [3], [{"role": "x"}], [{"role": "user"}], [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ):  # fmt: skip
        body = json.dumps({"model": "fake", "messages": value})
        status, _, text = raw(server, "/v1/chat/completions", body)
        assert (status, json.loads(text)["error"]["param"]) == (400, "messages")
    for body, status in (
        ("{", 400), ("[]", 400), ("[" * 100_000, 400), ('{"model": "none"}', 404),
        ('{"model":"fake","prompt":"\\ud800"}', 400), (b"\xff", 400), ("x" * (9 << 20), 413),
    ):  # fmt: skip
        found, _, text = raw(server, "/v1/completions", body)
        assert (found, set(json.loads(text))) == (status, {"error"})
    assert raw(server, "/v1/nothing")[0] == 404
    assert raw(server, "/v1/completions", method="GET")[0] == 405
    assert "error" in json.loads(raw(server, "/v1/completions", method="GET")[2])


def test_a_foreign_name_of_the_loopback_is_refused(server):
    assert raw(server, "/v1/models", headers={"Host": "evil.example"})[0] == 421
    assert raw(server, "/v1/models", headers={"Host": "localhost:1"})[0] == 200


def test_a_text_that_fails_leaves_the_others_alone(fake, client):
    def ask(prompt):
        return client.completions.create(model="poisoned", prompt=prompt, temperature=0,
                                         max_tokens=40).choices[0].text  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, "z" if i % 3 == 0 else f"good {i}") for i in range(12)]
    for i, one in enumerate(asked):
        if i % 3 == 0:
            with pytest.raises(openai.InternalServerError, match="poison"):
                one.result()
        else:
            assert one.result() == text_of(fake, f"good {i}", 40)
    with pytest.raises(openai.InternalServerError, match="poison"):
        list(client.completions.create(model="poisoned", prompt="z", stream=True))


class Steps:
    """A gate that lets some steps through."""

    def __init__(self, count):
        self.left = threading.Semaphore(count)

    def wait(self):
        self.left.acquire()


def test_who_leaves_frees_pages(fake):
    model = make_model(fake)
    lane = model.lane
    lane.engine.gate = steps = Steps(3)
    with make_server(model) as server:
        client = client_of(server)
        try:
            asked = {"model": "fake", "prompt": "Hi", "max_tokens": 190}
            stream = client.completions.create(**asked, stream=True)
            next(iter(stream))
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request("POST", "/v1/completions", json.dumps(asked))
            eventually(lambda: server.api.runner.texts == 2)
            stream.close()
            connection.close()
            eventually(lambda: server.api.runner.texts == 0)
        finally:
            steps.left.release(1000)
        eventually(lambda: lane.counts["cancelled"] == 2 and not lane.busy)
        assert lane.pages.available == lane.pages.count
        assert lane.counts["drawn_tokens"] < 10
        answer = client.completions.create(model="fake", prompt="Hi", temperature=0)
        assert answer.choices[0].text == text_of(fake, "Hi", 16)


def test_above_the_limit_clients_are_asked_to_wait(fake):
    model = make_model(fake, most=1)
    model.lane.engine.gate = gate = threading.Event()
    with make_server(model, limit=3) as server, ThreadPoolExecutor(4) as pool:
        client = client_of(server)

        def ask(n=1):
            return client.completions.create(model="fake", prompt="Hi", temperature=0, n=n)

        held = [pool.submit(ask), pool.submit(ask, 2)]
        try:
            eventually(lambda: server.api.runner.texts == 3)
            with pytest.raises(openai.RateLimitError, match="limit of 3") as refusal:
                ask()
        finally:
            gate.set()
        assert refusal.value.response.headers["retry-after"] == "1"
        assert refusal.value.code == "queue_full"
        texts = {choice.text for one in held for choice in one.result().choices}
        assert texts == {text_of(fake, "Hi", 16)}
        assert ask().choices[0].finish_reason == "length"


def test_a_key(fake):
    with make_server(make_model(fake), api_key="secret") as server:
        assert client_of(server, "secret").models.list().data
        for ask in (
            lambda c: c.models.list(),
            lambda c: c.completions.create(model="fake", prompt="x"),
            lambda c: c.chat.completions.create(model="fake", messages=[]),
        ):
            with pytest.raises(openai.AuthenticationError, match="API key"):
                ask(client_of(server, "wrong"))
        assert raw(server, "/metrics")[0] == 401
        assert raw(server, "/health")[0] == 200


def test_log_handlers_of_the_program_stay_open(fake):
    closed = []

    class Watched(logging.NullHandler):
        def close(self):
            closed.append(self)
            super().close()

    kept = Watched()
    with make_server(make_model(fake)) as server:
        assert raw(server, "/health")[0] == 200
    assert not closed
    kept.close()


@pytest.mark.parametrize("grace", [0.0, 20.0], ids=["at_once", "after_the_texts"])
def test_the_end_of_a_server(fake, grace):
    model = make_model(fake)
    model.lane.engine.gate = gate = threading.Event()
    server = make_server(model).start()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(client_of(server).completions.create, model="fake", prompt="Hi",
                            temperature=0)  # fmt: skip
        eventually(lambda: server.api.runner.texts == 1)
        ending = pool.submit(server.stop, grace)
        eventually(lambda: not server.api.runner.alive)
        gate.set()
        ending.result()
        if grace:
            assert asked.result().choices[0].text == text_of(fake, "Hi", 16)
        else:
            with pytest.raises(openai.InternalServerError, match="has stopped"):
                asked.result()
    with pytest.raises(openai.APIConnectionError):
        client_of(server).models.list()


def test_ctrl_c_ends_it_when_the_texts_are_written(fake, capsys):
    server = make_server(make_model(fake))
    found = []

    def ask():
        client = client_of(server)
        for piece in client.completions.create(model="fake", prompt="Hi", max_tokens=90,
                                               temperature=0, stream=True):  # fmt: skip
            if not found:
                os.kill(os.getpid(), signal.SIGINT)
            found.append(piece.choices[0].text)

    asking = threading.Thread(target=ask)
    asking.start()
    server.run()
    asking.join()
    assert "".join(found) == text_of(fake, "Hi", 90)
    told = capsys.readouterr().out
    assert f"{server.url}/v1" in told
    assert told.endswith("stopped\n")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_breaks_is_told(fake):
    class Broken(fake.FakeEngine):
        def forward(self, *arguments, **options):
            raise SystemError("the machine is on fire")

    model = make_model(fake)
    model.lane.engine = Broken()
    with make_server(model) as server:
        client = client_of(server)
        with pytest.raises(openai.InternalServerError, match="has stopped"):
            client.completions.create(model="fake", prompt="Hi")
        assert raw(server, "/health")[0] == 503
        with pytest.raises(openai.InternalServerError, match="is stopping"):
            client.completions.create(model="fake", prompt="Hi")


def test_a_port_that_is_taken(fake, server):
    with pytest.raises(ValueError, match=f":{server.port} cannot be listened on"):
        Server({}, port=server.port)
    with pytest.raises(ValueError, match="port=-1"):
        Server({}, port=-1)
