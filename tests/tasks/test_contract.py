"""What every task promises. A new `tasks/x.py` with a TASK joins by being there.

Tokenising is done on a few short documents of each part, since the laws do not depend on how many.
Tasks whose text is not at hand (no LOWBIT_ASSETS) are skipped; the network is never asked.
"""

import os
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lowbit.core.errors import UserError
from lowbit.core.plugins import plugins
from lowbit.core.spec import TaskSpec
from lowbit.tasks import prepare as preparing
from lowbit.tasks.base import END, PARTS, Source, Task
from lowbit.tasks.batching import batches, epoch_order
from lowbit.tasks.checks import check_source
from lowbit.tasks.prepare import encode, find_task, prepare

TASKS = plugins("lowbit.tasks", "TASK")
WINDOW = 16
LENGTH = 4_096


@cache
def tokenizer():
    """Byte-level, so that it knows every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["the cat sat on the mat and the film was good"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


@cache
def whole(name: str) -> Source:
    return TASKS[name].read(TaskSpec(name))


@pytest.fixture(params=sorted(TASKS))
def task(request, monkeypatch) -> Task:
    monkeypatch.setitem(sys.modules, "datasets", None)
    try:
        whole(request.param)
    except UserError as error:
        if "LOWBIT_ASSETS" in str(error) and not os.environ.get("LOWBIT_ASSETS"):
            pytest.skip("needs LOWBIT_ASSETS")
        raise
    return TASKS[request.param]


@pytest.fixture
def source(task) -> Source:
    """A few documents of each part, cut short. The part's name in front keeps them apart."""
    parts = {
        part: tuple(
            replace(document, text=f"{part} {number} {document.text[:300]}")
            for number, document in enumerate(documents[:5])
        )
        for part, documents in whole(task.name).parts.items()
    }
    return replace(whole(task.name), parts=parts)


@pytest.fixture
def small(task, source, monkeypatch) -> TaskSpec:
    """The settings by which `prepare` gets the few documents."""
    few = replace(task, read=lambda spec: source)
    monkeypatch.setattr(preparing, "find_task", lambda name, spec=None: few)
    return TaskSpec(task.name, window=WINDOW)


def same(ours, theirs) -> bool:
    return all(
        len(ours.parts[part]) == len(theirs.parts[part])
        and all(
            np.array_equal(a.ids, b.ids)
            and np.array_equal(a.target, b.target)
            and (a.document, a.words, a.kind) == (b.document, b.words, b.kind)
            for a, b in zip(ours.parts[part], theirs.parts[part], strict=True)
        )
        for part in PARTS
    )


def test_a_task_is_found_by_its_name_and_says_what_it_is(task):
    assert find_task(task.name) is task
    assert task.about
    expected = {"language": ("loss", "lower"), "classification": ("accuracy", "higher")}
    assert (task.metric, task.better) == expected[task.kind]


def test_reading_twice_gives_the_same_source_whatever_the_settings(task):
    again = task.read(TaskSpec(task.name, window=7, limit=3, scored_limit=3))
    assert again == whole(task.name)


def test_the_four_parts_are_there_not_empty_and_share_no_text(task):
    source = whole(task.name)
    check_source(source, task)
    texts = {part: {document.text for document in source.parts[part]} for part in PARTS}
    assert set(source.parts) == set(PARTS)
    assert len(set.union(*texts.values())) == sum(map(len, texts.values()))
    assert len(texts["train"]) > len(texts["calibration"])


def test_the_source_says_beside_a_table_what_it_is(task):
    assert whole(task.name).notes


def test_classes_are_named_and_every_class_is_trained_and_scored(task):
    source = whole(task.name)
    if task.kind == "language":
        assert source.labels == ()
        return
    for part in PARTS:
        classes = {document.label for document in source.parts[part]}
        assert classes == set(range(len(source.labels)))


def test_the_same_seed_gives_the_same_batches(small):
    def stream():
        data = prepare(small, tokenizer(), LENGTH, None)
        part = data.parts["train"]
        return [b for e in range(2) for b in batches(part, 3, epoch_order(len(part), 5, e))]

    for ours, theirs in zip(stream(), stream(), strict=True):
        assert ours.index == theirs.index
        assert torch.equal(ours.ids, theirs.ids)
        assert ours.lengths == theirs.lengths
        assert torch.equal(ours.target, theirs.target)


def test_every_token_of_a_document_is_predicted_exactly_once(task, source, small):
    data = prepare(small, tokenizer(), LENGTH, None)
    for part in PARTS:
        rows = data.parts[part]
        if task.kind == "classification":
            assert [row.document for row in rows] == list(range(len(source.parts[part])))
            assert [int(row.target[0]) for row in rows] == [d.label for d in source.parts[part]]
            continue
        for number, document in enumerate(source.parts[part]):
            mine = [row for row in rows if row.document == number]
            predicted = np.concatenate([row.target for row in mine]).tolist()
            assert predicted == [*tokenizer()(document.text)["input_ids"], 0]
            seen = np.concatenate([row.ids for row in mine]).tolist()
            assert seen == [0, *predicted[:-1]]
            assert max(len(row.ids) for row in mine) <= WINDOW


def test_words_summed_over_the_examples_are_the_words_of_the_documents(task, source, small):
    data = prepare(small, tokenizer(), LENGTH, None)
    for part in PARTS:
        texts = [document.text.replace(END, " ") for document in source.parts[part]]
        expected = sum(len(text.split()) for text in texts) if task.kind == "language" else 0
        assert sum(row.words for row in data.parts[part]) == expected


def test_the_ratio_of_summed_scores_is_the_metric_whatever_the_batches(task, small):
    data = prepare(small, tokenizer(), LENGTH, None)
    part = data.parts["scored"]
    table = torch.from_numpy(np.random.default_rng(0).random(len(tokenizer())))

    def scores(size: int) -> tuple[float, int]:
        """A model whose score for a prediction is a number looked up by what it predicts."""
        total, count = 0.0, 0
        for batch in batches(part, size, range(len(part))):
            real = batch.target != -100
            total += float(table[batch.target[real]].sum())
            count += int(real.sum())
        return total, count

    every = torch.from_numpy(np.concatenate([row.target for row in part]).astype(np.int64))
    for size in (1, 4, len(part)):
        total, count = scores(size)
        assert count == sum(len(row.target) for row in part)
        assert total / count == pytest.approx(float(table[every].mean()), rel=1e-12)


def test_a_second_call_reads_the_cache_and_gives_the_same_data(small, tmp_path, monkeypatch):
    first = prepare(small, tokenizer(), LENGTH, tmp_path)
    monkeypatch.setattr(preparing, "encode", lambda *_: pytest.fail("tokenised twice"))
    second = prepare(small, tokenizer(), LENGTH, tmp_path)
    assert same(first, second)
    assert first.fingerprint == second.fingerprint


def test_the_scored_part_touches_no_other_part(task, source):
    other = source.parts["scored"][0]
    changed = replace(
        source, parts={**source.parts, "scored": (replace(other, text="quite another text"),)}
    )
    spec = TaskSpec(task.name, window=WINDOW)
    ours = encode(source, task, tokenizer(), spec)
    theirs = encode(changed, task, tokenizer(), spec)
    kept = [name for name in ours if not name.startswith("scored.")]
    assert kept
    assert all(np.array_equal(ours[name], theirs[name]) for name in kept)
    assert not np.array_equal(ours["scored.ids"], theirs["scored.ids"])
