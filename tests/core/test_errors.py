"""The suggestion at the end of an error message."""

from __future__ import annotations

from dataclasses import fields

import pytest

from lowbit.core.errors import _SYNONYMS, nearest
from lowbit.core.spec import Plan, Rule, TaskSpec, TrainSpec

KEYS = [field.name for spec in (Plan, Rule, TaskSpec, TrainSpec) for field in fields(spec)]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("learning_rate", "lr"),
        ("batch-size", "batch"),
        ("num_epochs", "epochs"),
        ("epoch", "epochs"),
    ],
)
def test_names_of_other_libraries_suggest_our_key(name: str, key: str) -> None:
    assert nearest(name, KEYS) == f" Did you mean '{key}'?"


@pytest.mark.parametrize("synonym", sorted(_SYNONYMS))
def test_every_synonym_leads_to_a_setting_that_exists(synonym: str) -> None:
    assert set(_SYNONYMS[synonym]) <= set(KEYS)
    assert synonym not in KEYS, "a setting that exists needs no synonym"


def test_a_synonym_counts_only_where_its_key_is_valid() -> None:
    assert nearest("learning_rate", ["format", "rank"]) == " Valid: format, rank."
