"""An engine and a tokenizer of a few lines, with which every text can be told beforehand.

The engine's pages hold tokens, and its scores depend on all tokens that it finds in a sequence's
pages, so a page that is not what a table says changes the text.
"""

import hashlib

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
        import codecs

        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token):
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def flush(self):
        return self.decoder.decode(b"", final=True)


def scores(ids, letters=b"abcdefgh"):
    """Scores after a sequence: random, but the same for the same tokens."""
    seed = hashlib.sha256(np.array(ids, np.int32).tobytes()).digest()[:8]
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
        return np.full((pages, page_size), -1, np.int32)

    def forward(self, pool, tokens, counts, past, tables, logits="last", hidden=False):
        if self.gate is not None:
            self.gate.wait()
        self.calls.append((counts.tolist(), past.tolist(), logits))
        if self.poison is not None and self.poison in tokens:
            raise RuntimeError("a token of poison")
        size, rows, at = pool.shape[1], [], 0
        for count, start, table in zip(counts, past, tables, strict=True):
            places = np.arange(start, start + count)
            pool[table[places // size], places % size] = tokens[at : at + count]
            at += count
            known = pool[table].reshape(-1)[: start + count]
            assert (known >= 0).all(), "a page was read that nobody has written"
            first = 0 if logits == "all" else count - 1
            for i in range(first, count):
                rows.append(self.row(known[: start + i + 1]))
        return None if logits == "none" else np.stack(rows)

    def row(self, ids):
        if self.void is not None and self.void in ids:
            return np.full(VOCABULARY, np.nan, np.float32)
        if self.script is None:
            return scores(ids)
        row = np.full(VOCABULARY, -20.0, np.float32)
        row[self.script[len(ids) % len(self.script)]] = 0.0
        return row


def expected(ids, count, draw=lambda row, history, step: int(row.argmax())):
    """Tokens that follow, without pages and batches."""
    ids, first = list(ids), len(ids)
    for step in range(count):
        ids.append(draw(scores(ids), ids, step))
    return ids[first:]
