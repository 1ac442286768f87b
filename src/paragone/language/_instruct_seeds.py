"""A dozen seed tasks of our own, for a first try; a field of one's own needs seeds of its own.

References:
    Wang et al. (2023), Self-Instruct, arXiv:2212.10560, section 2.1 (what seeds are for).
"""

from __future__ import annotations

from paragone.language._instruct_prompt import Row

__all__ = ["SEEDS"]

_TASKS = (
    ("Put these words in alphabetical order.", "pear, apple, fig, cherry",
     "apple, cherry, fig, pear"),
    ("Is the mood of this sentence good or bad?", "The train was late again and nobody told us.",
     "Bad."),
    ("Turn this order into a polite question.", "Give me the salt.",
     "Could you please pass me the salt?"),
    ("Why does bread rise in the oven?", "",
     "Yeast makes gas while the dough rests. In the heat the gas grows, and so does the bread."),
    ("Name three rivers that flow into the North Sea.", "", "The Rhine, the Elbe and the Thames."),
    ("Continue this story with one sentence.", "The lighthouse keeper heard someone knock at noon.",
     "When she opened the door, a wet dog sat there with a letter in its mouth."),
    ("Find the mistake in this sum and mend it.", "17 + 26 = 42", "17 + 26 = 43"),
    ("Shorten this text to one sentence.",
     "The shop opens at nine. On Sundays it opens at eleven. It closes at six on all days.",
     "The shop is open from nine, on Sundays from eleven, until six."),
    ("Sort these animals into mammals and birds.", "owl, whale, bat, penguin",
     "Mammals: whale, bat. Birds: owl, penguin."),
    ("Suggest a title for an essay about walking to work.", "", "Four Miles Before Breakfast"),
    ("Translate this sentence into French.", "The window is open.", "La fenêtre est ouverte."),
    ("How many minutes does the film last?", "It begins at 19:40 and ends at 21:25.",
     "105 minutes."),
)  # fmt: skip

SEEDS: tuple[Row, ...] = tuple(
    {"instruction": instruction, "input": given, "output": output}
    for instruction, given, output in _TASKS
)
"""Rows with instruction, input and output."""
