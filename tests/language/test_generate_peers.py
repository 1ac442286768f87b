"""Generation and samplers against transformers: the same tokens, the same distributions."""

import numpy as np
import pytest
import torch

from paragone.language._generate_beams import beam_search
from paragone.language.config import LlamaConfig
from paragone.language.engine import Engine
from paragone.language.generate import generate
from paragone.language.llama import Llama
from paragone.language.sampling import Sampling

pytestmark = pytest.mark.peers
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    generator = torch.Generator().manual_seed(0)
    ours = Llama(LlamaConfig(**SIZES, eos_token_id=95), generator=generator).requires_grad_(False)
    for parameter in ours.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(0.3 * drawn if drawn.ndim > 1 else 1 + 0.1 * drawn)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SIZES, eos_token_id=95, pad_token_id=0, bos_token_id=1,
    )).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def told(model, prompt, count, **options):
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                               do_sample=False, **options)  # fmt: skip
    new = found[0, len(prompt) :].tolist()
    return new[: new.index(95) + 1] if 95 in new else new


def test_greedy_texts_and_scores(pair):
    ours, theirs = pair
    engine = Engine.make(ours, threads=1)
    for prompt in ([1, 2, 3], [50], list(range(1, 30))):
        scores = engine.forward(engine.new_pool(2), prompt, [len(prompt)], [0], [[0, 1]],
                                logits="all")  # fmt: skip
        with torch.no_grad():
            wanted = theirs(torch.tensor([prompt])).logits[0].numpy()
        assert np.abs(scores - wanted).max() < 2e-5 * np.abs(wanted).max()
        found = generate(engine, None, prompt, max_new_tokens=24, repetition_penalty=1.3)
        wanted = told(theirs, prompt, 24, repetition_penalty=1.3)
        assert found.tokens == [token for token in wanted if token != 95]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_beams(pair, power):
    ours, theirs = pair
    engine = Engine.make(ours, threads=1)
    for prompt in ([1, 2, 3], [50], [7, 8, 9, 10]):
        found, _ = beam_search(engine, prompt, 4, 12, [95], power)
        assert found == told(theirs, prompt, 12, num_beams=4, length_penalty=power)


def test_distributions():
    process = pytest.importorskip("transformers.generation.logits_process",
                                  reason="transformers is not installed")  # fmt: skip
    rng = np.random.default_rng(0)
    for case in range(12):
        logits = (rng.standard_normal(200) * (0.5 + case % 3)).astype(np.float32)
        history = rng.integers(0, 200, 10)
        options = [
            {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}, {"typical_p": 0.6},
            {"top_k": 30, "top_p": 0.7, "min_p": 0.05}, {"repetition_penalty": 1.4},
        ][case % 6]  # fmt: skip
        chain = {
            "repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
            "temperature": process.TemperatureLogitsWarper, "top_k": process.TopKLogitsWarper,
            "top_p": process.TopPLogitsWarper, "min_p": process.MinPLogitsWarper,
            "typical_p": process.TypicalLogitsWarper,
        }  # fmt: skip
        scores = torch.from_numpy(logits)[None]
        given = {**options, "temperature": 0.7}
        for name, made in chain.items():
            if name in given:
                scores = made(given[name])(torch.from_numpy(history)[None], scores)
        ours = Sampling(seed=0, **given).probabilities(logits, history)
        np.testing.assert_allclose(ours, scores.softmax(-1)[0].numpy(), atol=1e-6)
