"""What a campaign comes to, in sentences: its ending, its priorities, what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.significance import SAME_BITS, noise_of
from lowbit.research.campaign.state import State, Trial
from lowbit.research.report.findings import OTHER, Ending, Part


def ending_sentences(state: State, ending: Ending | None) -> list[str]:
    """What the fresh seeds and the sealed text say, in plain words."""
    if ending is None:
        return [
            "Not run yet: lowbit research report --ending takes the keeps out one by one, runs the "
            "winner on fresh seeds, and opens the sealed text."
        ]
    if not state.keeps:
        return [f"Nothing was kept, so there is no winner to replicate. {_sealed(ending)}".strip()]
    sentences = []
    if ending.claimed is not None:
        sentences.append(
            f"On the seeds that decided, the winner gains {interval(ending.claimed)} nats."
        )
    if ending.fresh is not None:
        sentences.append(
            f"On fresh seeds it gains {interval(ending.fresh)} nats. {_shrunk(ending)}"
        )
    else:
        sentences.append("On fresh seeds it did not run to its end: the gain is not replicated.")
    return [*sentences, _sealed(ending)]


def _shrunk(ending: Ending) -> str:
    """What a second look left of the gain, without a guess at why."""
    assert ending.fresh is not None
    share = ending.shrinkage
    less = "" if share is None or share <= 0 else f", {100 * min(share, 1):.0f} % less than before"
    if ending.fresh.estimate <= 0:
        return "Nothing of the gain is left."
    if ending.fresh.low <= 0:
        return f"The interval holds zero: the gain is not shown again{less}."
    return f"The gain is replicated{less or ', and did not shrink'}."


def _sealed(ending: Ending) -> str:
    if ending.sealed_perplexity is None:
        return ""
    ours, theirs = ending.sealed_perplexity
    own_bits, first_bits = (
        (f" at {b:.3f} bits a weight" for b in ending.bits) if ending.bits else ("", "")
    )
    if ending.sealed is None:
        return f"On the sealed text, opened once: perplexity {ours:.3f}{own_bits}."
    zero_note = "" if ending.sealed.low > 0 else ", an interval that holds zero"
    return (
        f"On the sealed text, opened once: perplexity {ours:.3f}{own_bits}, where the first "
        f"program has {theirs:.3f}{first_bits}; "
        f"a gain of {interval(ending.sealed)} nats{zero_note}."
    )


def interval(gain: Difference) -> str:
    return f"{gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def sentence(state: State, part: Part, worth: Mapping[int, Difference | None]) -> str:
    """What was tried, what became of it, and what held to the end."""
    if not part.trials:
        return "Nothing of it was tried."
    count = len(part.trials)
    tried = f"{count} change{'' if count == 1 else 's'} tried{_fates(state, part)}"
    if not part.held:
        lead = "no one change that is about this alone" if part.title == OTHER else "none"
        return f"{tried}; {lead} held."
    keeps = "; ".join(
        f"{t.description} ({t.gain or 0:+.4f} nats{_in_the_end(t, worth)})" for t in part.held
    )
    return f"{tried}; what held: {keeps}."


def _fates(state: State, part: Part) -> str:
    """Why the others did not hold, and for how many the clock may have decided."""
    crashed = sum(trial.status == "crash" for trial in part.trials)
    lost = [trial for trial in part.trials if trial.status == "discard"]
    unconfirmed = [trial for trial in lost if trial.confirmation is None]
    slow = sum(_fewer(state, trial) for trial in unconfirmed)
    text = f", {crashed} crashed" if crashed else ""
    if unconfirmed:
        text += f", {len(unconfirmed)} discarded on one seed"
        text += f" ({slow} of them with fewer tokens than the incumbent)" if slow else ""
    if len(lost) > len(unconfirmed):
        text += f", {len(lost) - len(unconfirmed)} after confirming"
    return text


def _fewer(state: State, trial: Trial) -> bool:
    """Whether its screening run got through less text: its own doing, or a slow minute."""
    ours, theirs = state.screened(trial.commit), state.screened(trial.base)
    return ours is not None and theirs is not None and ours.tokens < theirs.tokens


def _in_the_end(trial: Trial, worth: Mapping[int, Difference | None]) -> str:
    loss = worth.get(trial.number)
    if loss is None:
        return ""
    zero_note = "" if loss.low > 0 else ", not shown"
    return f"; taken out at the end {loss.estimate:+.4f}{zero_note}"


def notes(state: State) -> list[str]:
    """What a reader has to know to believe any of it."""
    settings = state.settings
    unsealed = [str(t.number) for t in state.judged if t.unsealed and t.status == "keep"]
    levels = sorted({ran.level for ran in state.runs.values()})
    sentences = [
        f"A keep passed a test over {len(settings.confirming)} seeds and all articles of the "
        f"confirmation text, under its share of alpha {settings.alpha:g} for the whole campaign.",
        f"Candidates ran under: {'; '.join(levels)}." if levels else "Nothing has run.",
        *_noises(state),
        "The sealed text has been opened once."
        if state.opened
        else "The sealed text has not been opened.",
    ]
    if state.ended is not None and not _same_bits(state):
        sentences.append(
            "The winner left other bits on fresh seeds than when it was screened: its figures are "
            "not those of one program."
        )
    if unsealed:
        sentences.append(f"UNSEALED keeps, made with files within reach: {', '.join(unsealed)}.")
    return sentences


def _noises(state: State) -> list[str]:
    """What another seed does to the first program: by the clock, and at fixed tokens."""
    losses = [ran.scores["screening"].loss for ran in state.baseline() if not ran.reason]
    if len(losses) < 2:
        return ["The noise has not been measured."]
    tokens = sorted(ran.tokens for ran in state.baseline())
    sentences = [
        "By the clock another seed moves the loss of the first program by "
        f"{noise_of(losses).sd:.4f} nats (standard deviation over {len(losses)} seeds, which got "
        f"through {tokens[0]:,} to {tokens[-1]:,} tokens): seed and machine together. One seed by "
        "the clock only says whether confirming is worth the time."
    ]
    confirmed = state.confirmed(state.base)
    if confirmed:
        sentences.append(
            f"At {state.tokens():,} tokens, as keeps are decided, by {noise_of(confirmed).sd:.4f}."
        )
    return sentences


def _same_bits(state: State) -> bool:
    """Whether the winner exported as many bits on every fresh seed as on the one that screened."""
    screened = state.screened(state.incumbent)
    fresh = [state.runs.get((state.incumbent, "fresh", seed)) for seed in state.settings.fresh]
    bits = [ran.bits for ran in (screened, *fresh) if ran is not None and ran.bits is not None]
    return max(bits) - min(bits) <= SAME_BITS
