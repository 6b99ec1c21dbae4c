"""Dialogues in a model's chat template.

A document's turns alternate between user and assistant. The template's own text (roles, a system
prompt) is context: it is read, but neither trained on nor scored. Scored are the turns of both
sides and the token that ends each turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from lowbit.core.errors import UserError
from lowbit.tasks.base import END, Document

Span = tuple[int, int]
_MARK = "\ue000turn\ue000"
"""Private-use characters, which no template has."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template as text; an error if the tokeniser has none."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise UserError(
            "task.chat = true, but the model has no chat template: take its instruct version, or "
            "leave task.chat out"
        )
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def rendered(document: Document, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[Span]]:
    """A dialogue in the template, and the character range of each turn in it.

    The places come from rendering marks instead of turns: a short turn may also occur in the
    template's own text.
    """
    turns = [turn.strip() for turn in document.text.split(END) if turn.strip()]
    if not turns:
        raise UserError("a dialogue without turns: its text is only end-of-text marks")
    text = _render(turns, tokenizer)
    markup = _render([_MARK] * len(turns), tokenizer).split(_MARK)
    spans, written = [], markup[0]
    for turn, after in zip(turns, markup[1:], strict=False):
        spans.append((len(written), len(written) + len(turn)))
        written += turn + after
    if written != text or len(spans) != len(turns):
        raise UserError(f"the model's chat template changes the text of a turn: {turns[0][:60]!r}")
    return text, spans


def _render(turns: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # whatever a template raises
        reason = str(error).partition("\n")[0]
        raise UserError(f"the model's chat template refuses a dialogue: {reason}") from error


def encoded(
    document: Document, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The dialogue's token ids up to the last scored one, which of them are scored, and the
    position of every word's first token."""
    text, spans = rendered(document, tokenizer)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(tokens["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1])
    scored = np.zeros(len(offsets), dtype=bool)
    words: list[int] = []
    for start, stop in spans:
        inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
        scored[inside] = True
        if len(inside) and inside[-1] + 1 < len(scored):
            scored[inside[-1] + 1] = True  # the token that ends the turn
        firsts = [start + word.start() for word in re.finditer(r"\S+", text[start:stop])]
        words += np.searchsorted(ends, firsts, side="right").tolist()
    count = int(np.flatnonzero(scored)[-1]) + 1
    return tokens["input_ids"][:count], scored[:count], np.array(words, dtype=np.int64)
