"""The built-in proposer: edits of one dial, chosen by optuna's TPE.

A proposal sets one dial to a new value. The first ten proposals go through the five priorities of
program.md twice, with a random edit of each. After that TPE chooses. It learns from whole programs,
all their dials and their loss on the screening seed, so results under different incumbents can be
compared. The best quarter count as good. TPE suggests a complete program; the proposal is one of
the dials in which this program differs from the incumbent.

A crash has no score, so TPE does not learn from it, but the same program is never proposed again.
Neither is a value that a keep has replaced. The study is rebuilt from the history each time, so a
killed campaign continues with the same proposals. The price of one dial a proposal: a gain that
needs two changes at once is not found.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowbit.core.errors import UserError
from lowbit.research.campaign.edits import (
    DIALS,
    PRIORITIES,
    Value,
    constants,
    constants_if_valid,
    untried_edits,
)
from lowbit.research.proposers.base import Proposal, Proposer, ProposerKind, edit_proposal
from lowbit.research.proposers.view import View, replaced_values

STARTUP = 2 * len(PRIORITIES)
"""Number of random proposals before TPE starts."""
GOOD = 4
"""TPE treats the best 1/GOOD of all programs as good."""
TPE_ASKS = 10
"""How often TPE is asked before a random edit is taken instead."""


@dataclass(frozen=True)
class TpeProposer:
    """Proposes edits of one dial with TPE."""

    seed: int
    name: str = "builtin"

    def propose(self, view: View) -> Proposal | None:
        current = constants(view.text)
        _check_dials(current)
        excluded = replaced_values(view)
        history = [constants_if_valid(trial.text) for trial in view.history]
        edits = [edit for edit in untried_edits(view.text, history) if edit not in excluded]
        if not edits:
            return None
        source = random.Random(f"{self.seed} {view.trial}")
        edit = _startup_edit(view.trial, edits, source) if view.trial <= STARTUP else None
        # If TPE suggests only programs that were tried before, take a random edit.
        name, value = edit or _tpe_edit(self.seed, view, edits, source) or source.choice(edits)
        return edit_proposal(view.text, name, value, current[name])


def _startup_edit(
    trial: int, candidates: list[tuple[str, Value]], source: random.Random
) -> tuple[str, Value] | None:
    """A random edit of the priority whose turn it is; None if it has no edit left."""
    priority = 1 + (trial - 1) % len(PRIORITIES)
    edits = [edit for edit in candidates if PRIORITY[edit[0]] == priority]
    return source.choice(edits) if edits else None


PRIORITY = {dial.name: dial.priority for dial in DIALS}


def _check_dials(current: dict[str, Any]) -> None:
    if not any(dial.name in current for dial in DIALS):
        raise UserError(
            "the program has none of the dials that the built-in proposer can change; they are "
            f"constants at the top of train.py, such as {DIALS[0].name}"
        )


def _study(seed: int, view: View) -> Any:
    """A TPE study with every program that has a loss; it minimises the loss."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = int.from_bytes(hashlib.sha256(f"{seed} {view.trial}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gamma is deprecated, but optuna has no replacement yet
        sampler = optuna.samplers.TPESampler(
            seed=own,
            n_startup_trials=STARTUP,
            gamma=lambda n: max(1, n // GOOD),
            # A suggestion that is not used must not count as a bad result.
            constant_liar=False,
            multivariate=False,
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    first = view.history[0].base if view.history else view.text
    for text, loss in (
        (first, view.first_loss),
        *((trial.text, trial.loss) for trial in view.history),
    ):
        if loss is not None:
            _add_trial(optuna, study, constants_if_valid(text), loss)
    return study


def _add_trial(optuna: Any, study: Any, current: dict[str, Any], loss: float) -> None:
    values = {dial.name: current[dial.name] for dial in DIALS if dial.has_effect(current)}
    dials = {d.name: d for d in DIALS if values.get(d.name) in d.values}
    kinds = {n: optuna.distributions.CategoricalDistribution(d.values) for n, d in dials.items()}
    params = {name: values[name] for name in dials}
    study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=loss))


def _tpe_edit(
    seed: int, view: View, candidates: Sequence[tuple[str, Value]], source: random.Random
) -> tuple[str, Value] | None:
    """One of `candidates` that leads towards a program of TPE; None if TPE suggests none."""
    study = _study(seed, view)
    names = {name for name, _ in candidates}
    for _ in range(TPE_ASKS):
        trial = study.ask()
        suggestion = [
            (dial.name, trial.suggest_categorical(dial.name, dial.values))
            for dial in DIALS
            if dial.name in names
        ]
        steps = [edit for edit in suggestion if edit in candidates]
        if steps:
            return source.choice(steps)
    return None


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise UserError(
            "the built-in proposer needs optuna: pip install 'lowbit[research]' "
            "(or --proposer random)"
        ) from None
    return optuna


def make(argument: str, seed: int) -> Proposer:
    if argument:
        raise UserError("the built-in proposer takes no argument")
    return TpeProposer(seed)


PROPOSER = ProposerKind("builtin", "edits of one dial, chosen by TPE", make)
