"""What a campaign comes to, in sentences: its ending, its priorities, what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.significance import noise_of
from lowbit.research.campaign.state import State, Trial
from lowbit.research.judging.decide import SAME_BITS
from lowbit.research.report.findings import OTHER, Ending, Part


def ending_sentences(state: State, found: Ending | None) -> list[str]:
    """What the fresh seeds and the sealed text say, in plain words."""
    if found is None:
        return [
            "Not run yet: lowbit research report --ending takes the keeps out one by one, runs the "
            "winner on fresh seeds, and opens the sealed text."
        ]
    if not state.kept:
        return [f"Nothing was kept, so there is no winner to replicate. {_sealed(found)}".strip()]
    said = []
    if found.claimed is not None:
        said.append(f"On the seeds that decided, the winner gains {interval(found.claimed)} nats.")
    if found.fresh is not None:
        said.append(f"On fresh seeds it gains {interval(found.fresh)} nats. {_shrunk(found)}")
    else:
        said.append("On fresh seeds it did not run to its end: the gain is not replicated.")
    return [*said, _sealed(found)]


def _shrunk(found: Ending) -> str:
    """What a second look left of the gain, without a guess at why."""
    assert found.fresh is not None
    share = found.shrinkage
    less = "" if share is None or share <= 0 else f", {100 * min(share, 1):.0f} % less than before"
    if found.fresh.estimate <= 0:
        return "Nothing of the gain is left."
    if found.fresh.low <= 0:
        return f"The interval holds zero: the gain is not shown again{less}."
    return f"The gain is replicated{less or ', and did not shrink'}."


def _sealed(found: Ending) -> str:
    if found.sealed_perplexity is None:
        return ""
    ours, theirs = found.sealed_perplexity
    mine, first = (f" at {b:.3f} bits a weight" for b in found.bits) if found.bits else ("", "")
    if found.sealed is None:
        return f"On the sealed text, opened once: perplexity {ours:.3f}{mine}."
    shown = "" if found.sealed.low > 0 else ", an interval that holds zero"
    return (
        f"On the sealed text, opened once: perplexity {ours:.3f}{mine}, where the first program "
        f"has {theirs:.3f}{first}; a gain of {interval(found.sealed)} nats{shown}."
    )


def interval(found: Difference) -> str:
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def sentence(state: State, part: Part, worth: Mapping[int, Difference | None]) -> str:
    """What was tried, what became of it, and what held to the end."""
    if not part.trials:
        return "Nothing of it was tried."
    count = len(part.trials)
    tried = f"{count} change{'' if count == 1 else 's'} tried{_fates(state, part)}"
    if not part.held:
        lead = "no one change that is about this alone" if part.title == OTHER else "none"
        return f"{tried}; {lead} held."
    said = "; ".join(
        f"{t.description} ({t.gain or 0:+.4f} nats{_in_the_end(t, worth)})" for t in part.held
    )
    return f"{tried}; what held: {said}."


def _fates(state: State, part: Part) -> str:
    """Why the others did not hold, and for how many the clock may have decided."""
    crashed = sum(trial.status == "crash" for trial in part.trials)
    lost = [trial for trial in part.trials if trial.status == "discard"]
    one = [trial for trial in lost if trial.confirmation is None]
    slow = sum(_fewer(state, trial) for trial in one)
    said = f", {crashed} crashed" if crashed else ""
    if one:
        said += f", {len(one)} discarded on one seed"
        said += f" ({slow} of them with fewer tokens than the incumbent)" if slow else ""
    if len(lost) > len(one):
        said += f", {len(lost) - len(one)} after confirming"
    return said


def _fewer(state: State, trial: Trial) -> bool:
    """Whether its screening run got through less text: its own doing, or a slow minute."""
    ours, theirs = state.screened(trial.commit), state.screened(trial.base)
    return ours is not None and theirs is not None and ours.tokens < theirs.tokens


def _in_the_end(trial: Trial, worth: Mapping[int, Difference | None]) -> str:
    found = worth.get(trial.number)
    if found is None:
        return ""
    shown = "" if found.low > 0 else ", not shown"
    return f"; taken out at the end {found.estimate:+.4f}{shown}"


def notes(state: State) -> list[str]:
    """What a reader has to know to believe any of it."""
    settings = state.settings
    unsealed = [str(t.number) for t in state.judged if t.unsealed and t.status == "keep"]
    levels = sorted({ran.level for ran in state.runs.values()})
    said = [
        f"A keep passed a test over {len(settings.confirming)} seeds and all articles of the "
        f"confirmation text, under its share of alpha {settings.alpha:g} for the whole campaign.",
        f"Candidates ran under: {'; '.join(levels)}." if levels else "Nothing has run.",
        *_noises(state),
        "The sealed text has been opened once."
        if state.opened
        else "The sealed text has not been opened.",
    ]
    if state.ended is not None and not _same_bits(state):
        said.append(
            "The winner left other bits on fresh seeds than when it was screened: its figures are "
            "not those of one program."
        )
    if unsealed:
        said.append(f"UNSEALED keeps, made with files within reach: {', '.join(unsealed)}.")
    return said


def _noises(state: State) -> list[str]:
    """What another seed does to the first program: by the clock, and at fixed tokens."""
    found = [ran.scores["screening"].loss for ran in state.baseline() if not ran.reason]
    if len(found) < 2:
        return ["The noise has not been measured."]
    tokens = sorted(ran.tokens for ran in state.baseline())
    said = [
        "By the clock another seed moves the loss of the first program by "
        f"{noise_of(found).sd:.4f} nats (standard deviation over {len(found)} seeds, which got "
        f"through {tokens[0]:,} to {tokens[-1]:,} tokens): seed and machine together. One seed by "
        "the clock only says whether confirming is worth the time."
    ]
    confirmed = state.confirmed(state.base)
    if confirmed:
        said.append(
            f"At {state.tokens():,} tokens, as keeps are decided, by {noise_of(confirmed).sd:.4f}."
        )
    return said


def _same_bits(state: State) -> bool:
    """Whether the winner exported as many bits on every fresh seed as on the one that screened."""
    screened = state.screened(state.incumbent)
    fresh = [state.runs.get((state.incumbent, "fresh", seed)) for seed in state.settings.fresh]
    bits = [ran.bits for ran in (screened, *fresh) if ran is not None and ran.bits is not None]
    return max(bits) - min(bits) <= SAME_BITS
