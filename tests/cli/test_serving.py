"""`paragone serve-model` and `paragone chat` in the shell: what they say and how they end."""

import io
import os
import signal
import sys
import threading
import urllib.request

import pytest
import torch

from paragone.cli import main
from paragone.lab import serving_jobs
from paragone.language import Llama, LlamaConfig, Tokenizer, save


def shell(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = Tokenizer.train(["low lower lowest new newer"] * 4, 270)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=256, bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    return save(model, tokenizer, tmp_path_factory.mktemp("runs") / "tiny")


class Terminal(io.StringIO):
    """Standard input that says that it is a terminal."""

    def isatty(self):
        return True


QUICK = ("--backend", "torch", "--max-tokens", "5", "--temperature", "0")


def test_what_is_piped_in_is_answered_line_by_line(folder, monkeypatch, capsys):
    lines = "new\n\n/system brief\nnew\n/reset\nnew\n/nonsense\n/exit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, err = shell(capsys, "chat", folder, *QUICK)
    assert code == 0
    assert "the model has no chat template; User: and Assistant: are written" in err
    assert "/system TEXT" in err
    assert "> " not in out
    assert out.count("\n") >= 3


def test_a_conversation_in_a_terminal(folder, monkeypatch, capsys):
    typed = iter(["new", KeyboardInterrupt, "/help", "", "low", EOFError])

    def typing(prompt):
        assert prompt == "> "
        word = next(typed)
        if isinstance(word, str):
            return word
        raise word

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", typing)
    code, out, err = shell(capsys, "chat", folder, *QUICK, "--chat-template", "chatml")
    assert code == 0
    assert err == ""
    assert out.startswith("tiny: /help, Ctrl-D ends\n")
    assert "\nCtrl-D or /exit ends\n" in out
    assert "/reset        forget what was said" in out


def test_ctrl_c_stops_the_answer_only(capsys):
    class Talk:
        left_out, said = 0, []

        def say(self, text):
            for i in range(99):
                if i == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                self.said.append(i)
                yield f" {i}"
            Talk.left_out = 2

    out = io.StringIO()
    serving_jobs._turn(Talk(), "hello", out)
    assert out.getvalue() == "0 1 2 3 ...\n"
    assert Talk.said == [0, 1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_served_model_ends_by_ctrl_c(folder, capsys, monkeypatch):
    found = []

    class Told(io.StringIO):
        def write(self, text):
            if "http://" in text:
                url = text.split(": ")[1].split("/v1")[0]
                threading.Thread(target=ask, args=(url,)).start()
            return super().write(text)

    def ask(url):
        try:
            found.append(urllib.request.urlopen(f"{url}/v1/models").read().decode())
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys, "stdout", told := Told())
    with pytest.raises(SystemExit) as end:
        main(["serve-model", str(folder), "--port", "0", "--backend", "torch", "--memory", "1MB"])
    assert end.value.code == 0
    assert '"id":"tiny"' in found[0]
    assert told.getvalue().endswith("stopped\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve-model", "nowhere"), "nowhere does not exist"),
        (("serve-model", "FOLDER", "--port", "99999"), "port=99999"),
        (("serve-model", "FOLDER", "--adapters", "cook"), "NAME=FOLDER"),
        (("serve-model", "FOLDER", "--memory", "lots"), "--memory"),
        (("chat", "nowhere"), "nowhere does not exist"),
        (("chat", "FOLDER", "--chat-template", "klingon"), "klingon"),
        (("chat", "FOLDER", "--temperature", "-1"), "temperature=-1"),
    ],
    ids=["model", "port", "adapters", "memory", "chat_model", "template", "temperature"],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line(folder, capsys, words, message):
    code, out, err = shell(capsys, *(folder if word == "FOLDER" else word for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
