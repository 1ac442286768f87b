"""An engine and a tokenizer of a few lines, with which every text can be told beforehand.

As with real keys, what the engine writes for a token depends on all that stands before it in the
sequence's pages, and its scores depend on everything it finds there: a page that is not what a
table says, or that was written behind other tokens, changes the text.
"""

import codecs
import hashlib
import zlib

import numpy as np

BOS, EOS = 256, 257
VOCABULARY = 258


class FakeTokenizer:
    """Bytes, with a token each for begin and end."""

    bos_id, eos_id, pad_id, chat_template = BOS, EOS, None, None
    vocab_size = VOCABULARY

    def encode(self, text, bos=True):
        return [BOS] * bos + list(text.encode())

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token):
        return bytes([token]) if token < 256 else b""

    def piece(self, token):
        return {BOS: "<s>", EOS: "</s>"}.get(token, chr(token))

    def stream(self, after=()):
        return _Stream(self)


class _Stream:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token):
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def flush(self):
        return self.decoder.decode(b"", final=True)


def written(before, token):
    """What stands in a page for a token behind others."""
    return zlib.crc32(f"{before} {token}".encode())


def scores(ids, keys=None, letters=b"abcdefgh"):
    """Scores after a sequence: random, but the same for the same tokens."""
    if keys is None:
        keys = [0]
        for token in ids:
            keys.append(written(keys[-1], token))
        keys = keys[1:]
    seed = hashlib.sha256(np.array([*ids, *keys], np.int64).tobytes()).digest()[:8]
    row = np.full(VOCABULARY, -20.0, np.float32)
    chosen = list(letters)
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    row[chosen] = rng.normal(size=len(chosen)).astype(np.float32)
    return row


class FakeEngine:
    """Reads tokens from pages.

    `poison`: a token that makes a call fail if it is read; `void`: one whose scores are NaN.
    `script`: text that every sequence is continued by, whatever was drawn.
    """

    def __init__(self, poison=None, void=None, script=None):
        self.poison, self.void, self.script, self.calls = poison, void, script, []
        self.gate = None

    def new_pool(self, pages, page_size=16):
        return np.full((pages, page_size, 2), -1, np.int64)

    def forward(self, pool, tokens, counts, past, tables, logits="last", hidden=False):
        if self.gate is not None:
            self.gate.wait()
        self.calls.append((counts.tolist(), past.tolist(), logits))
        if self.poison is not None and self.poison in tokens:
            raise RuntimeError("a token of poison")
        size, rows, left = pool.shape[1], [], list(tokens)
        for count, start, table in zip(counts, past, tables, strict=True):
            for at in range(start, start + count):
                before = pool[table[(at - 1) // size], (at - 1) % size, 1] if at else 0
                pool[table[at // size], at % size] = left[0], written(before, left.pop(0))
            known = pool[table].reshape(-1, 2)[: start + count]
            assert (known >= 0).all(), "a page was read that nobody has written"
            for end in range(start if logits == "all" else start + count - 1, start + count):
                rows.append(self.row(known[: end + 1, 0], known[: end + 1, 1]))
        return None if logits == "none" else np.stack(rows)

    def row(self, ids, keys):
        if self.void is not None and self.void in ids:
            return np.full(VOCABULARY, np.nan, np.float32)
        if self.script is None:
            return scores(ids, keys)
        row = np.full(VOCABULARY, -20.0, np.float32)
        row[self.script[len(ids) % len(self.script)]] = 0.0
        return row


def expected(ids, count, draw=lambda row, history, step: int(row.argmax())):
    """Tokens that follow, without pages and batches."""
    ids, first = list(ids), len(ids)
    for step in range(count):
        ids.append(draw(scores(ids), ids, step))
    return ids[first:]
