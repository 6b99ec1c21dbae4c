"""The split of a text: inputs and hidden parts share no article, and do not vary."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import repository
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.research.campaign.settings import CampaignSettings, Places
from lowbit.research.candidate.text_split import SHARES, first, prepare, split

WORDS = "a bee cat dog eel fox goat hen ibis jay kite lark mole newt owl pig"


def articles(count: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [
        f"{number} " + " ".join(source.choices(WORDS.split(), k=source.randint(50, 400)))
        for number in range(count)
    ]


@given(st.integers(20, 90), st.integers(0, 20))
def test_every_article_is_in_one_part_of_about_its_share(count: int, seed: int) -> None:
    texts = articles(count, seed)
    parts = split(texts)
    assert sorted(text for part in parts.values() for text in part) == sorted(texts)
    total, longest = sum(map(len, texts)), max(map(len, texts))
    for name, share in SHARES.items():
        assert abs(sum(map(len, parts[name])) - share * total) <= longest


def test_the_order_of_articles_does_not_matter() -> None:
    texts = articles(40)
    assert split(texts) == split(texts[::-1])


def test_too_few_articles_are_refused() -> None:
    with pytest.raises(UserError, match="too few to split"):
        split(articles(4))


def test_a_limited_part_has_whole_articles_and_at_least_two() -> None:
    assert first(["aa", "bbb", "c"], 5, len) == ["aa", "bbb"]
    assert first(["aaaa", "bbb", "c"], 5, len) == ["aaaa", "bbb"]
    assert first(["a", "b", "c"], 99, len) == ["a", "b", "c"]


@pytest.mark.skipif(not os.environ.get("LOWBIT_ASSETS"), reason="needs LOWBIT_ASSETS")
def test_the_assets_text_is_split_and_candidates_get_no_evaluation_text(
    tmp_path: Path,
) -> None:
    (tmp_path / "home").mkdir()
    places = Places(repository(tmp_path / "home"), "one")
    settings = CampaignSettings("one", "assets:lm-14m")
    with pytest.raises(UserError, match=r"device 'cudda'\. Did you mean 'cuda'"):
        replace(settings, device="cudda")
    facts = prepare(settings, places)
    assert facts == prepare(settings, places), "a second call writes the same files"
    data, check = (np.load(places.inputs / name) for name in ("data.npy", "check.npy"))
    assert data.shape[1] == check.shape[1] == settings.window + 1
    assert np.array_equal(data[:-1, -1], data[1:, 0]), "the last token of a row begins the next"
    assert (places.hidden / "check.json").read_text() == json.dumps(check.tolist())
    hidden = {name: json.loads((places.hidden / f"{name}.json").read_text()) for name in SHARES}
    texts = [text for part in hidden.values() for text in part]
    assert len(set(texts)) == len(texts)
    rows = {tuple(row[:32]) for row in np.concatenate([data, check])}
    from lowbit.models.checkpoint import open_checkpoint, tokenizer_of
    from lowbit.models.find_model import resolve

    tokenizer = tokenizer_of(open_checkpoint(resolve(settings.model)).folder)
    for text in hidden["sealed"]:
        ids = tokenizer(text, verbose=False)["input_ids"]
        assert not {tuple(ids[i : i + 32]) for i in range(0, len(ids) - 32)} & rows
