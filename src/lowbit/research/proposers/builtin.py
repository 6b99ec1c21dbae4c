"""The built-in proposer: typed edits of the program's dials, chosen by optuna's TPE.

A proposal is one edit: a dial and a value of it. The first ten go twice round the program's five
priorities, at random within each. What TPE learns from is every program so far as a whole, all its
dials and its loss on the screening seed, so that losses of different incumbents can be compared;
the best quarter are its good ones. Asked for the program that it would try next, it names one; a
dial in which that differs from the incumbent is the proposal. A crash has no score and teaches
nothing, but is never proposed again; nor is a value that a keep has replaced. The study is rebuilt
from the history each time, so a killed campaign goes on with the proposals that it would have made.
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
    constants_of_any,
    untried,
)
from lowbit.research.proposers.base import Kind, Proposal, Proposer, edited
from lowbit.research.proposers.view import View, replaced_values

STARTUP = 2 * len(PRIORITIES)
"""Proposals before anything is learnt from."""
GOOD = 4
"""One program in so many is a good one."""
TPE_ASKS = 10


@dataclass(frozen=True)
class Typed:
    seed: int
    name: str = "builtin"

    def propose(self, view: View) -> Proposal | None:
        now = constants(view.text)
        _check_dials(now)
        gone = replaced_values(view)
        tried = [constants_of_any(trial.text) for trial in view.tried]
        left = [edit for edit in untried(view.text, tried) if edit not in gone]
        if not left:
            return None
        source = random.Random(f"{self.seed} {view.trial}")
        edit = _in_turn(view.trial, left, source) if view.trial <= STARTUP else None
        # TPE asks for what it likes; where all of that has been tried, something else is.
        name, value = edit or _tpe_edit(self.seed, view, left, source) or source.choice(left)
        return edited(view.text, name, value, now[name])


def _in_turn(
    trial: int, left: list[tuple[str, Value]], source: random.Random
) -> tuple[str, Value] | None:
    """Something of the priority whose turn it is, where there is anything left of it."""
    priority = 1 + (trial - 1) % len(PRIORITIES)
    edits = [edit for edit in left if PRIORITY[edit[0]] == priority]
    return source.choice(edits) if edits else None


PRIORITY = {dial.name: dial.priority for dial in DIALS}


def _check_dials(now: dict[str, Any]) -> None:
    if not any(dial.name in now for dial in DIALS):
        raise UserError(
            "the program has none of the dials that the built-in proposer knows; "
            f"they are constants like {DIALS[0].name} at its top"
        )


def _study(seed: int, view: View) -> Any:
    """TPE with every scored program told to it, in full: better is a lower loss."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = int.from_bytes(hashlib.sha256(f"{seed} {view.trial}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gamma is on its way out, with nothing in its place yet
        sampler = optuna.samplers.TPESampler(
            seed=own,
            n_startup_trials=STARTUP,
            gamma=lambda n: max(1, n // GOOD),
            # What is asked for and not wanted must not count as a bad outcome.
            constant_liar=False,
            multivariate=False,
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    first = view.tried[0].base if view.tried else view.text
    for text, loss in ((first, view.first), *((trial.text, trial.loss) for trial in view.tried)):
        if loss is not None:
            _tell(optuna, study, constants_of_any(text), loss)
    return study


def _tell(optuna: Any, study: Any, now: dict[str, Any], loss: float) -> None:
    chosen = {dial.name: now[dial.name] for dial in DIALS if dial.works(now)}
    dials = {d.name: d for d in DIALS if chosen.get(d.name) in d.values}
    kinds = {n: optuna.distributions.CategoricalDistribution(d.values) for n, d in dials.items()}
    params = {name: chosen[name] for name in dials}
    study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=loss))


def _tpe_edit(
    seed: int, view: View, candidates: Sequence[tuple[str, Value]], source: random.Random
) -> tuple[str, Value] | None:
    """One step towards a program that TPE would try next; None where it would only stay."""
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
    return Typed(seed)


PROPOSER = Kind("builtin", "typed edits of the program's dials, chosen by TPE", make)
