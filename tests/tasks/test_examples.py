"""Documents, windows, words and batches."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lowbit.core.errors import UserError
from lowbit.tasks import examples
from lowbit.tasks.base import END, Document, Example
from lowbit.tasks.batching import batches, by_length, epoch_order, split_by_tokens

TEXTS = st.text(st.sampled_from("ab é\n\t　猫."), min_size=1, max_size=60)


@cache
def bytes_tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["ab ab  aé 猫猫\n\nab. ab"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", model_max_length=8)


def words_tokenizer(**special):
    """Whole words, everything but letters dropped without a trace."""
    core = Tokenizer(models.WordLevel({"[x]": 0, "a": 1, "b": 2}, unk_token="[x]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^ab]+"), "removed")
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def windows(text: str, window: int, tokenizer=None) -> tuple[Example, ...]:
    made = examples.language([Document(text)], tokenizer or bytes_tokenizer(), window)
    return examples.examples(made, "language")


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_windows_predict_every_token_once_and_never_more_than_they_may(text, window):
    rows = windows(text, window)
    plain = bytes_tokenizer()(text, verbose=False)["input_ids"]
    assert np.concatenate([row.target for row in rows]).tolist() == [*plain, 0]
    assert np.concatenate([row.ids for row in rows]).tolist() == [0, *plain]
    assert [len(row.ids) for row in rows[:-1]] == [window] * (len(rows) - 1)
    assert all(len(row.ids) == len(row.target) for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_words_summed_over_windows_are_the_words_of_the_text(pieces, window, dropping):
    tokenizer = words_tokenizer(eos_token="[x]") if dropping else bytes_tokenizer()
    rows = windows(END.join(pieces), window, tokenizer)
    assert sum(row.words for row in rows) == sum(len(piece.split()) for piece in pieces)


def test_a_word_belongs_to_the_window_that_predicts_its_first_token():
    tokenizer = words_tokenizer(eos_token="[x]")
    rows = windows("a b a b a", 2, tokenizer)
    assert [row.words for row in rows] == [2, 2, 1]
    assert [row.target.tolist() for row in rows] == [[1, 2], [1, 2], [1, 0]]


def test_a_mark_inside_a_document_becomes_the_tokenisers_own_end_of_text_and_is_no_word():
    (row,) = windows(f"a{END}b", 16, words_tokenizer(eos_token="[x]"))
    assert row.ids.tolist() == [0, 1, 0, 2]
    assert row.target.tolist() == [1, 0, 2, 0]
    assert row.words == 2


def test_windows_never_join_documents():
    made = examples.language(
        [Document("a b a"), Document("b")], words_tokenizer(eos_token="[x]"), 8
    )
    rows = examples.examples(made, "language")
    assert [(row.document, row.ids.tolist()) for row in rows] == [(0, [0, 1, 2, 1]), (1, [0, 2])]


@pytest.mark.parametrize("name", ["eos_token", "bos_token", "sep_token"])
def test_end_of_text_falls_back_to_what_the_tokeniser_has(name):
    assert examples.end_of_text(words_tokenizer(**{name: "b"})) == 2


def test_a_tokeniser_without_any_end_of_text_is_an_error_that_says_what_to_name():
    with pytest.raises(UserError, match="eos_token"):
        examples.end_of_text(words_tokenizer())


def test_long_texts_raise_no_warning_about_the_models_length(caplog):
    windows("ab " * 500, 8)
    examples.classification([Document("ab " * 500, 0)], bytes_tokenizer())
    assert "longer than" not in caplog.text


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 7))
def test_a_batch_is_its_examples_one_after_another(texts, size):
    made = examples.language([Document(text) for text in texts], bytes_tokenizer(), 8)
    part = examples.examples(made, "language")
    order = epoch_order(len(part), 1, 0)
    found = list(batches(part, size, order))
    assert [i for batch in found for i in batch.index] == order
    for batch in found:
        ids, targets = batch.ids.split(batch.lengths), batch.target.split(batch.lengths)
        for i, mine, target in zip(batch.index, ids, targets, strict=True):
            assert mine.tolist() == part[i].ids.tolist()
            assert target.tolist() == part[i].target.tolist()
        assert batch.labels == tuple(len(part[i].target) for i in batch.index)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 60))
def test_stretches_hold_every_example_once_and_no_more_than_may_be(lengths, most):
    part = [Example(np.zeros(n, np.int64), np.zeros(n, np.int64), 0, 0) for n in lengths]
    order = by_length(part, range(len(part)))
    assert sorted(order) == list(range(len(part)))
    assert [lengths[i] for i in order] == sorted(lengths)
    stretches = list(split_by_tokens(part, most, order))
    assert [i for stretch in stretches for i in stretch] == order
    for stretch in stretches:
        assert len(stretch) == 1 or sum(lengths[i] for i in stretch) <= most


def test_a_class_is_one_target_a_row_even_for_sentences_of_one_token():
    made = examples.classification([Document("a", 1), Document("b", 0)], bytes_tokenizer())
    (batch,) = batches(examples.examples(made, "classification"), 2, [1, 0])
    assert batch.target.tolist() == [0, 1]
    assert batch.ids.shape == (2,)
    assert batch.lengths == batch.labels == (1, 1)


def test_one_token_windows_keep_one_target_a_position():
    (batch,) = batches(windows("a", 1), 2, [0, 1])
    assert batch.target.shape == batch.ids.shape == (2,)


@given(st.integers(0, 200), st.integers(0, 2**31), st.integers(0, 50))
def test_an_epochs_order_is_a_permutation_and_a_function_of_seed_and_epoch(count, seed, epoch):
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(count, seed, epoch)


def test_epochs_and_seeds_differ_in_order():
    orders = [epoch_order(100, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
