"""The built-in proposer: typed edits of the program's dials, chosen by optuna's TPE.

A proposal is one edit: a dial and a value of it. What TPE learns from is the gain of every edit so
far on the screening seed, against the incumbent of its time; those that gained are its good ones
(its own rule, the best tenth, would call most gains bad in so few trials). A crash has no score and
teaches nothing, but is never proposed again; nor is the value that a keep has beaten. The study is
rebuilt from the history each time, so a killed campaign goes on with the proposals that it would
have made.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

from lowbit.errors import UserError
from lowbit.research.edits import DIALS, Dial, Value, constants, constants_of_any, drawn
from lowbit.research.proposers.base import Kind, Proposal, Proposer, edited
from lowbit.research.views import View

STARTUP = 8
"""Proposals at random before anything is learnt from."""
ASKED = 40


@dataclass(frozen=True)
class Typed:
    seed: int
    name: str = "builtin"

    def propose(self, view: View) -> Proposal | None:
        now = constants(view.text)
        seen = [constants_of_any(one.text) for one in view.tried]
        beaten = _beaten(view)
        study = _study(self.seed, view)
        for _ in range(ASKED):
            name, value = _asked(study, _open(now))
            then = {**now, name: value}
            if then != now and then not in seen and (name, value) not in beaten:
                return edited(view.text, name, value, now[name])
        import random

        # TPE asks for what it likes; where all of that has been tried, something else is.
        found = drawn(view.text, random.Random(f"{self.seed} {view.trial}"), seen)
        return None if found is None else edited(view.text, *found, now[found[0]])


def _beaten(view: View) -> set[tuple[str, Any]]:
    """(dial, value) that a keep replaced: going back there would undo what was shown to be real."""
    return {
        (one.edit[0], constants(one.base).get(one.edit[0]))
        for one in view.tried
        if one.status == "keep" and one.edit is not None
    }


def _open(now: dict[str, Any]) -> list[Dial]:
    found = [dial for dial in DIALS if dial.name in now]
    if not found:
        raise UserError(
            "the program has none of the dials that the built-in proposer knows; "
            f"they are constants like {DIALS[0].name} at its top"
        )
    return found


def _study(seed: int, view: View) -> Any:
    """TPE with every scored edit told to it, better being less."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = int.from_bytes(hashlib.sha256(f"{seed} {view.trial}".encode()).digest()[:4])
    gains = sum(one.gain is not None and one.gain > 0 for one in view.tried)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gamma is on its way out, with nothing in its place yet
        sampler = optuna.samplers.TPESampler(
            seed=own, n_startup_trials=STARTUP, gamma=lambda _: max(1, gains)
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    dials = {dial.name: dial for dial in DIALS}
    for one in view.tried:
        if one.edit is None or one.gain is None or one.edit[0] not in dials:
            continue
        name, value = one.edit
        chosen = {"dial": name, name: value}
        kinds = {
            "dial": optuna.distributions.CategoricalDistribution(tuple(dials)),
            name: optuna.distributions.CategoricalDistribution(dials[name].values),
        }
        if value in dials[name].values:
            study.add_trial(
                optuna.trial.create_trial(params=chosen, distributions=kinds, value=-one.gain)
            )
    return study


def _asked(study: Any, dials: list[Dial]) -> tuple[str, Value]:
    """The sampler is asked over all dials, so that its memory fits; one that is gone asks again."""
    known = {dial.name for dial in dials}
    while True:
        trial = study.ask()
        name = trial.suggest_categorical("dial", tuple(dial.name for dial in DIALS))
        values = next(dial.values for dial in DIALS if dial.name == name)
        value: Value = trial.suggest_categorical(name, values)
        if name in known:
            return name, value


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
