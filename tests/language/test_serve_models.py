"""Real models behind the server: what it says is what the model says, adapters and prefixes too."""

import contextlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from paragone._core.errors import MissingPackageError
from paragone.language import Llama, LlamaConfig
from paragone.language._serve_chat import Conversation
from paragone.language._serve_choice import Failure
from paragone.language._serve_loading import adapted, served_models, template_of
from paragone.language._serve_model import plain_messages
from paragone.language.chat import ChatTemplate
from paragone.language.lora import add_lora, save_adapter
from paragone.language.serve import serve

openai = pytest.importorskip("openai", reason="the client is not installed: pip install openai")


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=270, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    one = Llama(model.config)
    one.load_state_dict(model.state_dict())
    add_lora(one, rank=2, alpha=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "lora" in name:
                parameter.normal_(generator=generator)
    save_adapter(one, folder)
    return folder


def scored(model, ids):
    """Log-probabilities after each token, by one full pass, of the tokens that can be written."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :, :258].double().log_softmax(-1)


def likeliest(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(int(scored(model, ids)[-1].argmax()))
    return ids


def test_a_server_says_what_the_model_says(model, adapter, fake, opened):
    words = fake.FakeTokenizer()
    with serve(model, words, port=0, name="base", adapters={"cook": adapter}, page_size=8, chunk=11,
               chat_template="plain", background=True) as server:  # fmt: skip
        client = opened.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none"))
        assert [one.id for one in client.models.list()] == ["base", "cook"]

        def ask(name, prompt):
            return client.completions.create(
                model=name, prompt=prompt, max_tokens=12, temperature=0, logprobs=0,
                extra_body={"ignore_eos": True},
            )  # fmt: skip

        prompts = ["A longer beginning of a text", "A longer beginning of a thing", "B"]
        with ThreadPoolExecutor(6) as pool:
            answers = [
                (name, prompt, pool.submit(ask, name, prompt))
                for name in ("base", "cook") for prompt in prompts
            ]  # fmt: skip
        texts = {}
        merged = adapted(model, adapter)
        for name, prompt, answer in answers:
            said = answer.result().choices[0]
            texts[name, prompt] = said.text
            ids = [256, *prompt.encode()]
            whole = likeliest(model if name == "base" else merged, ids, 12)
            expected = scored(model if name == "base" else merged, whole)
            assert said.text == words.decode(whole[len(ids) :])
            logs = [expected[at - 1, whole[at]].item() for at in range(len(ids), len(whole))]
            assert said.logprobs.token_logprobs == pytest.approx(logs, abs=2e-4)
        assert texts["base", prompts[0]] != texts["cook", prompts[0]]
        again = ask("base", prompts[0])
        assert again.choices[0].text == texts["base", prompts[0]]
        assert again.usage.prompt_tokens_details.cached_tokens == 24
        chat = client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "Hi"}], temperature=0, max_tokens=3
        )
        ids = [256, *b"User: Hi\nAssistant:"]
        assert chat.choices[0].message.content == words.decode(likeliest(model, ids, 3)[len(ids) :])


def test_real_stories(data_folder, opened):
    folder = data_folder / "language"
    with serve(folder / "stories260K", folder / "tok512.model", port=0, background=True) as server:
        client = opened.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none"))
        (name,) = server.models
        told = client.completions.create(model=name, prompt="Once upon a time", max_tokens=40,
                                         temperature=0, logprobs=0).choices[0]  # fmt: skip
        # The text that llama2.c, transformers and llama.cpp print as well.
        assert told.text.startswith(", there was a little girl named Lily. She loved to play")
        offsets = told.logprobs.text_offset
        for offset, token in zip(offsets, told.logprobs.tokens, strict=True):
            assert told.text[offset:].startswith(token)


def test_what_cannot_be_served(model, fake, monkeypatch):
    words = fake.FakeTokenizer()
    for options, words_of_error in (
        ({"context": 97}, "context=97: 2 to 96"), ({"memory": 100}, "memory=100 bytes hold"),
        ({"chat_template": "klingon"}, "klingon"), ({"batch": 0}, "0 sequences"),
        ({"adapters": {"paragone": model}}, "same name"),
        ({"weights": "int3"}, "int3"), ({"host": "256.0.0.1"}, "listened on"),
    ):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=words_of_error):
            serve(model, words, port=0, background=True, **options)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        serve(model, port=0)
    with pytest.raises(ValueError, match="does not exist"):
        serve("nowhere/at/all", port=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'paragone\[serve\]'"):
        serve("nowhere/at/all", port=0)


def one_model(model, words, template="plain", **options):
    settings = {"name": "m", "adapters": None, "most": 4, "batch": 2, "page_size": 8, **options}
    (served,) = served_models(model, words, chat_template=template, **settings).values()
    return served


def test_ends_of_turns_come_from_the_template(model, fake):
    words = fake.FakeTokenizer()
    served = one_model(model, words, None)
    assert served.template is None
    assert served.chat_ends == (frozenset(), ())
    served.use_template(template_of(words, "plain"))
    assert served.chat_ends == (frozenset(), ())
    # No token of this tokenizer is the mark, so it ends a text as a string.
    served.use_template(template_of(words, "chatml"))
    assert served.chat_ends == (frozenset(), ("<|im_end|>",))
    served.use_template(ChatTemplate(
        "{% for m in messages %}{{ m.role }}{{ m.content }}{% generation %}"
        "{{ m.content }}!{% endgeneration %}{% endfor %}"
    ))  # fmt: skip
    assert served.chat_ends == (frozenset({33}), ())


def test_a_conversation_keeps_its_pages_and_leaves_out_the_oldest(model, fake):
    words = fake.FakeTokenizer()
    served = one_model(model, words)
    talk = Conversation(served, "S", max_tokens=8, temperature=0.0)
    first = "".join(talk.say("Hi"))
    ids = [256, *b"S\nUser: Hi\nAssistant:"]
    assert first == words.decode(likeliest(model, ids, 8)[len(ids) :])
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"]
    list(talk.say("a"))
    assert served.lane.counts["cached_tokens"] >= 16
    for _ in range(4):
        list(talk.say("more"))
    assert talk.left_out > 0
    assert len(talk.turns) % 2 == 0
    talk.reset()
    assert (talk.turns, talk.left_out, talk.system) == ([], 0, "S")
    with pytest.raises(ValueError, match="say less"):
        list(talk.say("x" * 96))
    assert talk.turns == []
    answer = talk.say("Go on")
    next(piece for piece in answer if piece)
    answer.close()
    assert not served.lane.busy
    assert served.lane.pages.available == served.lane.pages.count
    assert talk.turns[-1]["role"] == "assistant"
    with pytest.raises(ValueError, match="max_tokens=0"):
        Conversation(served, max_tokens=0)
    with pytest.raises(ValueError, match="no chat template"):
        Conversation(one_model(model, words, None))


def test_messages_become_texts():
    given = [{"role": "assistant", "content": None, "tool_calls": [1]}]
    assert plain_messages(given)[0]["content"] == ""
    assert plain_messages(given)[0]["tool_calls"] == [1]
    with pytest.raises(Failure, match="at least one"):
        plain_messages([])
