"""Self-Instruct against a server that fails in every way, killed runs, and hand-read answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from paragone.language._instruct_prompt import BLACKLIST, blocks, objection, write_prompt
from paragone.language._instruct_seeds import SEEDS
from paragone.language._instruct_teacher import Ask, Endpoint, Reply, TeacherError, as_teacher
from paragone.language.self_instruct import seed_rows, self_instruct

VERBS = ("Explain", "Describe", "List", "Compare", "Translate", "Summarise", "Judge", "Invent")
NOUNS = ("bread", "rivers", "stars", "law", "trains", "paper", "bees", "salt", "winter", "glass",
         "wool", "ships", "clocks")  # fmt: skip


def answer(prompt, tasks=3):
    """Some tasks that follow from the prompt alone, the first one open as asked for."""
    at = sum(prompt.encode()) * 31 + len(prompt)
    number = int(prompt.rsplit("###\n", 1)[1].split(".")[0])
    parts = []
    for k in range(tasks):
        words = [NOUNS[(at // 7**j + k * (j + 3)) % len(NOUNS)] for j in range(5)]
        head = "" if k == 0 else f"###\n{number + k}. Instruction:"
        parts.append(
            f"{head} {VERBS[(at + k) % 8]} {' '.join(words)}.\n{number + k}. Input:\n<noinput>\n"
            f"{number + k}. Output:\nSomething.\n"
        )
    return "".join(parts)


def teacher(prompt):
    return Reply(answer(prompt), "stop", len(prompt) // 4, 50)


class Server(BaseHTTPRequestHandler):
    """Gives its replies in order; the last one again and again."""

    replies: ClassVar[list] = []
    asked: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers.get("Authorization")))
        status, headers, text = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if callable(text):
            text = text(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        """Says nothing."""


@pytest.fixture
def server():
    Server.replies, Server.asked = [], []
    held = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=held.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{held.server_port}/v1"
    held.shutdown()
    thread.join()
    held.server_close()


def chat_reply(body, text=None):
    text = answer(body["messages"][0]["content"]) if text is None else text
    return json.dumps({
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 40},
    })  # fmt: skip


def test_a_failing_server_is_asked_again_and_costs_are_counted(server, tmp_path):
    waits = []
    Server.replies = [
        (429, {"Retry-After": "7"}, "slow down"), (503, {}, "busy"), (200, {}, "no JSON"),
        (200, {}, '{"choices": []}'), (200, {}, chat_reply),
    ]  # fmt: skip
    endpoint = Endpoint(server, "m", api_key="secret", sleep=waits.append)
    made = self_instruct(SEEDS, endpoint, count=6, folder=tmp_path, prices=(2.0, 10.0))
    assert len(made) >= 6
    assert made.cost == pytest.approx(made.requests * (100 * 2 + 40 * 10) / 1e6)
    assert (made.prompt_tokens, made.uncounted) == (100 * made.requests, 0)
    assert waits[0] == 7.0
    assert len(waits) == 4
    assert 2 <= waits[1] <= 2.5
    assert 4 <= waits[2] <= 5
    path, body, key = Server.asked[-1]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "m")


def test_what_fails_for_good_is_told_and_nothing_is_lost(server, tmp_path):
    endpoint = Endpoint(server, "m", api_key="", sleep=lambda seconds: None, retries=2)
    Server.replies = [(200, {}, chat_reply), (401, {}, "bad key")]
    with pytest.raises(TeacherError, match=r"m at http.*: 401 bad key"):
        self_instruct(SEEDS, endpoint, count=6, folder=tmp_path)
    assert len(Server.asked) == 2
    assert Server.asked[0][2] is None
    Server.replies = [(200, {}, chat_reply)]
    made = self_instruct(SEEDS, endpoint, count=6, folder=tmp_path)
    assert made == self_instruct(SEEDS, endpoint, count=6)
    Server.replies, Server.asked = [(500, {}, "always")], Server.asked
    before = len(Server.asked)
    with pytest.raises(TeacherError, match="500"):
        endpoint.ask(Ask("x"))
    assert len(Server.asked) - before == 3


def test_a_prompt_that_leaves_no_room_is_sent_with_a_shorter_answer(server):
    full = "maximum context length is 4096 tokens, reduce"
    cut = json.dumps({"choices": [{"text": " x", "finish_reason": "length"}]})
    Server.replies = [(400, {}, full), (400, {}, full), (200, {}, cut)]
    reply = Endpoint(server, "m", chat=False).ask(Ask("p", max_tokens=1000, stop=("21.",)))
    assert (reply.text, reply.finish_reason, reply.prompt_tokens) == (" x", "length", None)
    assert [body["max_tokens"] for _, body, _ in Server.asked] == [1000, 800, 640]
    assert Server.asked[0][1]["stop"] == ["21."]
    with pytest.raises(ValueError, match="http"):
        Endpoint("ftp://x", "m")


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, parallel):
    options = {"count": 24, "parallel": parallel, "own_examples": 2, "prices": (1.0, 1.0)}
    whole = self_instruct(SEEDS, teacher, folder=tmp_path / "whole", **options)
    calls = []

    def failing(prompt):
        calls.append(prompt)
        if len(calls) == 5:
            raise TeacherError("gone")
        return teacher(prompt)

    failing.__name__ = "teacher"
    with pytest.raises(TeacherError, match="gone"):
        self_instruct(SEEDS, failing, folder=tmp_path / "part", **options)
    log = tmp_path / "part" / "requests.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert 0 < len(lines) < whole.requests
    # A process that was killed while it wrote leaves half a line.
    log.write_text("".join(lines[:-1]) + lines[-1][:20])
    events = []
    again = self_instruct(
        SEEDS, teacher, folder=tmp_path / "part", progress=events.append, **options
    )
    assert again == whole
    assert (again.requests, again.cost, again.dropped) == (
        whole.requests, whole.cost, whole.dropped,
    )  # fmt: skip
    assert log.read_text() == (tmp_path / "whole" / "requests.jsonl").read_text()
    assert events[-1].rows == len(whole)
    assert json.loads((tmp_path / "part" / "rows.json").read_text()) == list(whole)
    longer = self_instruct(SEEDS, teacher, folder=tmp_path / "part", **{**options, "count": 30})
    assert longer[: len(whole)] == whole
    with pytest.raises(ValueError, match=r"similarity was 0.7, is 0.5"):
        self_instruct(SEEDS, teacher, folder=tmp_path / "part", similarity=0.5, **options)


def test_rows_are_what_finetune_reads(tmp_path):
    from paragone.language.rows import read_rows

    made = self_instruct(SEEDS, teacher, count=3, folder=tmp_path)
    assert set(made[0]) == {"instruction", "input", "output"}
    rows = read_rows(made)
    assert len(rows) == len(made)
    assert read_rows(tmp_path / "rows.json") == rows
    assert rows[0][0]["content"] == made[0]["instruction"]


def test_a_run_stops_when_nothing_is_new_or_money_is_spent():
    def same(prompt):
        return Reply(answer("###\n4. Instruction:"), "stop", 1000, 1000)

    made = self_instruct(SEEDS, same, count=50, patience=3)
    assert (made.finish_reason, made.requests, len(made)) == ("stalled", 4, 3)
    assert made.dropped == {"not new": 9}
    made = self_instruct(SEEDS, teacher, count=50, prices=(0.0, 1e4), most_cost=0.9)
    assert (made.finish_reason, made.requests) == ("cost", 2)
    assert "cost 1.0000" in made.told()
    assert self_instruct(SEEDS, lambda prompt: answer(prompt), count=1).uncounted == 1
    with pytest.raises(ValueError, match="most_cost needs prices"):
        self_instruct(SEEDS, same, most_cost=1.0)
    with pytest.raises(ValueError, match="count=-1"):
        self_instruct(SEEDS, same, count=-1)


def test_the_published_numbering_is_kept_on_demand():
    prompt, published = (write_prompt(SEEDS[:2], compat=compat) for compat in (False, True))
    numbers = [[line[0] for line in text.splitlines()[3:12]] for text in (prompt, published)]
    assert ["".join(n) for n in numbers] == ["123456789", "123234567"]
    assert prompt.endswith("###\n3. Instruction:")
    assert "###\n1. Instruction: Put these words in alphabetical order.\n1. Input:\npear" in prompt
    assert write_prompt([{**SEEDS[0], "input": ""}], head="Do:\n").startswith(
        "Do:\n\n###\n1. Instruction: Put these words in alphabetical order.\n1. Input:\n<noinput>\n"
    )


def test_answers_are_read_block_by_block():
    text = (
        " Say hello to them all.\n4. Input:\n<noinput>\n4. Output:\nHello: all.\n### Bye\nBye.\n"
        "### 9) Instruction: Add the numbers.\n Input: 1, 2\nOutput: 3\n"
        "### \nno block\n###\n7. Instruction: Sing a song to me"
    )
    found = blocks(text, cut_off=True)
    said = {"instruction": "Say hello to them all.", "input": ""}
    assert found[0] == ({**said, "output": "Hello: all.\n### Bye\nBye."}, "")
    assert found[1][0] == {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
    assert [why for _, why in found[2:]] == ["not in the form", "cut off"]
    assert blocks("###\n4. Instruction: A b\n4. Input:\nx\n4. Output:\ny", False)[0][0] == {
        "instruction": "A b", "input": "x", "output": "y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        ("Profile the user of this shop.", None),
        ("Explain how a mapping works here.", None),
        ("Open the file and read it.", "blacklist"),
        ("Draw a picture of a cat.", "blacklist"),
        ("Please GO TO the next town.", "blacklist"),
        ("Too short here", "too short"),
        ("word " * 151, "too long"),
        ("Write a program that sorts numbers.", "a program"),
        ('"Quoted" words begin this one.', "strange"),
        ("Écris un poème sur la mer.", "strange"),
    ],
)
def test_the_blacklist_counts_whole_words(instruction, why):
    found = objection({"instruction": instruction.strip(), "input": "", "output": "x"}, BLACKLIST)
    assert found is None if why is None else why in found


def test_seeds(tmp_path, data_folder):
    rows = seed_rows(data_folder / "language" / "self_instruct_seed_tasks.jsonl")
    assert len(rows) == 175
    assert rows[1]["input"] == "Night : Day :: Right : Left"
    with pytest.raises(ValueError, match="seed 0: expected instruction and output"):
        seed_rows([{"instruction": "x"}])
    with pytest.raises(ValueError, match="no seeds"):
        seed_rows([])
    (tmp_path / "s.jsonl").write_text("{x")
    with pytest.raises(ValueError, match=r"s\.jsonl: expected JSON"):
        seed_rows(tmp_path / "s.jsonl")
    with pytest.raises(ValueError, match="expected an Endpoint"):
        as_teacher(7)


def test_a_local_model_as_the_teacher():
    import torch

    from paragone.language.config import LlamaConfig
    from paragone.language.llama import Llama
    from paragone.language.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["ab"], 258)
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    made = self_instruct(SEEDS, (model, tokenizer), count=5, max_tokens=4, patience=2, examples=1)
    assert (made.finish_reason, made.requests) == ("stalled", 2)
    assert made.completion_tokens <= 8
    assert made.prompt_tokens > 1000
    assert made.uncounted == 0


def test_the_command(server, tmp_path, capsys):
    from paragone._core.errors import UsageError
    from paragone.lab.self_instruct_job import self_instruct as job
    from paragone.lab.self_instruct_progress import InstructProgress

    Server.replies = [(200, {}, chat_reply)]
    with InstructProgress() as progress:
        made = job(server, name="m", out=tmp_path, count=4, prices="1,2", progress=progress)
    assert "4/4 rows" in capsys.readouterr().err or len(made.written) > 4
    assert f"next: paragone finetune MODEL --rows {tmp_path / 'rows.json'}" in str(made)
    assert json.loads(made.json())["rows"] == len(made.written)
    assert made.exit_code == 0
    with pytest.raises(UsageError, match="--name"):
        job(server, out=tmp_path)
    with pytest.raises(UsageError, match="--prices"):
        job(server, name="m", out=tmp_path, prices="1")
    with pytest.raises(UsageError, match="other settings"):
        job(server, name="m", out=tmp_path, seed=5)
