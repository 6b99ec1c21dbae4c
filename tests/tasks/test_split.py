"""Parts are cut by what documents say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.tasks.base import PARTS, Document
from lowbit.tasks.split import HELD_OUT, SCORED, hold_out, split_in_order, without

SHARES = (*HELD_OUT, SCORED)
TEXTS = st.text("abc", min_size=1, max_size=12)


def documents(texts):
    return [Document(text) for text in texts]


@given(st.lists(TEXTS, min_size=1, max_size=60).filter(lambda texts: len(set(texts)) >= 4))
def test_every_document_is_in_one_part_and_duplicates_stay_together(texts):
    parts = hold_out(documents(texts), SHARES)
    assert sorted(d.text for part in parts.values() for d in part) == sorted(texts)
    distinct = [{d.text for d in part} for part in parts.values()]
    assert sum(map(len, distinct)) == len(set(texts))
    assert set(parts) == set(PARTS)
    assert all(parts.values())


@given(st.permutations([f"text {i}" for i in range(40)]))
def test_the_order_of_the_documents_decides_nothing(texts):
    parts = hold_out(documents(texts))
    again = hold_out(documents(sorted(texts)))
    assert {p: {d.text for d in part} for p, part in parts.items()} == {
        p: {d.text for d in part} for p, part in again.items()
    }


def test_parts_keep_the_documents_own_order():
    texts = [f"text {i:03}" for i in range(200)]
    for part in hold_out(documents(texts)).values():
        assert [d.text for d in part] == sorted(d.text for d in part)


def test_held_out_parts_are_about_a_twentieth_and_have_a_limit():
    few = hold_out(documents(f"text {i:04}" for i in range(1_000)))
    assert (len(few["selection"]), len(few["calibration"])) == (50, 50)
    many = hold_out(documents(f"text {i:06}" for i in range(40_000)))
    assert (len(many["selection"]), len(many["calibration"])) == (1_000, 1_000)
    long = hold_out(documents(f"{i:05}" * 4_000 for i in range(400)))
    assert len(long["selection"]) == len(long["calibration"]) == 12


def test_one_giant_document_stays_in_train():
    texts = ["giant " * 10_000, *(f"text {i}" for i in range(30))]
    parts = hold_out(documents(texts), SHARES)
    assert any(d.text == texts[0] for d in parts["train"])


def test_fewer_documents_than_parts_is_an_error_that_counts_them():
    with pytest.raises(UserError, match="3 different documents, but 4 parts"):
        hold_out(documents("aabc"), SHARES)


@given(st.lists(TEXTS, max_size=9), st.lists(TEXTS, max_size=9))
def test_without_leaves_no_text_of_the_others(ours, others):
    left = {document.text for document in without(documents(ours), documents(others))}
    assert left == set(ours) - set(others)


@given(
    st.lists(st.text("ab", min_size=1, max_size=30), min_size=4, max_size=40),
    st.sampled_from(["\n", "\n\n", "\n \n"]),
)
def test_stretches_are_consecutive_complete_and_never_empty(pieces, separator):
    parts = split_in_order([separator.join(pieces)], "FILE.txt")
    texts = [document.text for part in PARTS for document in parts[part]]
    assert "".join(texts).replace("\n", "") == "".join(pieces)
    assert all(parts[part] for part in PARTS)


def test_stretches_never_join_documents():
    parts = split_in_order(["one\ntwo\nthree", "four\nfive\nsix"], "FILE.txt")
    joined = [document.text for part in PARTS for document in parts[part]]
    assert not any("three" in text and "four" in text for text in joined)


def test_too_few_lines_for_four_parts_names_the_file():
    with pytest.raises(UserError, match=r"FILE\.txt: too little data.*there are 3"):
        split_in_order(["one\ntwo\nthree"], "FILE.txt")
