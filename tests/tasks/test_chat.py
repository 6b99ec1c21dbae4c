"""Dialogues in a chat template: turns are scored, the template's own text is context."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks import examples
from lowbit.tasks.base import END, IGNORED, Document
from lowbit.tasks.batching import collate
from lowbit.tasks.prepare import prepare

TEMPLATE = (
    "<s>system\nBe brief.<e>\n"
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<e>\n{% endfor %}"
)
TURNS = st.lists(
    st.text(st.sampled_from("ab é猫."), min_size=1, max_size=12).filter(str.strip),
    min_size=1,
    max_size=5,
)


@cache
def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Bytes, and three special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=[END, "<s>", "<e>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["how are you"] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)
    made.chat_template = template
    return made


def windows(turns: list[str], window: int) -> tuple[examples.Example, ...]:
    document = Document(END.join(turns))
    return examples.examples(
        examples.language([document], tokenizer(), window, in_chat=True), "language"
    )


@settings(max_examples=60, deadline=None)
@given(TURNS, st.integers(1, 40))
@example(["b"], 1)  # also in the template's own text
def test_scored_are_the_turns_and_the_token_that_ends_each(turns: list[str], window: int) -> None:
    rows = windows(turns, window)
    scored = [int(t) for row in rows for t in row.target if t != IGNORED]
    assert tokenizer().decode(scored) == "".join(turn.strip() + "<e>" for turn in turns)
    assert all((row.target != IGNORED).any() for row in rows), "no window without a loss"
    assert sum(row.words for row in rows) == sum(len(turn.split()) for turn in turns)


def test_the_template_is_read_whole_and_roles_alternate() -> None:
    (row,) = windows(["how are you", "fine", "good"], 1000)
    read = tokenizer().decode([int(i) for i in row.ids])
    assert read.startswith(f"{END}<s>system\nBe brief.<e>\n<s>user\nhow are you<e>\n<s>assistant\n")
    assert read.endswith("<s>user\ngood"), "what follows the last scored token is left out"
    assert collate([row], [0]).labels == (int((row.target != IGNORED).sum()),)


@pytest.fixture
def dialogues(tmp_path: Path) -> TaskSpec:
    path = tmp_path / "talk.jsonl"
    rows = [{"text": f"how are you {i}{END}fine{END}good {i}"} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return TaskSpec(str(path), window=16, chat=True)


def test_the_template_belongs_to_the_datas_fingerprint(dialogues: TaskSpec) -> None:
    chat = prepare(dialogues, tokenizer(), 64, None)
    other = prepare(dialogues, tokenizer(TEMPLATE.replace("brief", "kind")), 64, None)
    plain = prepare(replace(dialogues, chat=False), tokenizer(), 64, None)
    bare = prepare(replace(dialogues, chat=False), tokenizer(None), 64, None)
    assert len({chat.fingerprint, other.fingerprint, plain.fingerprint}) == 3
    assert plain.fingerprint == bare.fingerprint
    assert any("chat template" in note for note in chat.notes)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: take its instruct version"),
        ("{{ raise_exception('roles must alternate') }}", "refuses a dialogue: roles must"),
        ("{{ messages[0].content | upper }}", "changes the text of a turn: 'how are you"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(
    dialogues: TaskSpec, template: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(dialogues, tokenizer(template), 64, None)


def test_sentences_are_no_dialogues(tmp_path: Path) -> None:
    path = tmp_path / "films.jsonl"
    rows = [{"sentence": f"film {i}", "label": "ab"[i % 2]} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=r"is for dialogues; .* has sentences"):
        prepare(TaskSpec(str(path), window=16, chat=True), tokenizer(), 64, None)


def test_a_dialogue_without_turns_says_so() -> None:
    with pytest.raises(UserError, match="a dialogue without turns"):
        windows(["", " "], 16)
