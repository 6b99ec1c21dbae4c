"""What a campaign comes to, in sentences: its ending, its priorities, what all of it rests on."""

from __future__ import annotations

from lowbit.inference import Difference
from lowbit.research.deciding import SAME_BITS
from lowbit.research.findings import OTHER, Ending, Part
from lowbit.research.state import State


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
        shrunk = found.shrinkage
        more = "" if shrunk is None else f" {_shrunk(shrunk)}"
        said.append(f"On fresh seeds it gains {interval(found.fresh)} nats.{more}")
    else:
        said.append("On fresh seeds it did not run to its end: the gain is not replicated.")
    return [*said, _sealed(found)]


def _shrunk(share: float) -> str:
    if share > 0:
        return f"That is {100 * share:.0f} % less: what was left over of choosing by luck."
    return "It did not shrink."


def _sealed(found: Ending) -> str:
    if found.sealed_perplexity is None:
        return ""
    ours, theirs = found.sealed_perplexity
    if found.sealed is None:
        return f"On the sealed text, opened once: perplexity {ours:.3f}."
    return (
        f"On the sealed text, opened once: perplexity {ours:.3f}, where the first program has "
        f"{theirs:.3f}; a gain of {interval(found.sealed)} nats."
    )


def interval(found: Difference) -> str:
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def sentence(part: Part) -> str:
    """What was tried and what held."""
    if not part.trials:
        return "Nothing of it was tried."
    count = len(part.trials)
    tried = f"{count} change{'' if count == 1 else 's'} tried"
    crashed = sum(trial.status == "crash" for trial in part.trials)
    broke = f", {crashed} crashed" if crashed else ""
    if not part.held:
        lead = "no one change that is about this alone" if part.title == OTHER else "none"
        return f"{tried}{broke}; {lead} held."
    said = "; ".join(f"{t.description} ({t.gain or 0:+.4f} nats)" for t in part.held)
    return f"{tried}{broke}; what held: {said}."


def notes(state: State) -> list[str]:
    """What a reader has to know to believe any of it."""
    settings = state.settings
    unsealed = [str(t.number) for t in state.judged if t.unsealed and t.status == "keep"]
    levels = sorted({ran.level for ran in state.runs.values()})
    noise = state.noise()
    said = [
        f"A keep passed a test over {len(settings.confirming)} seeds and all articles of the "
        f"confirmation text, under its share of alpha {settings.alpha:g} for the whole campaign.",
        f"Candidates ran under: {'; '.join(levels)}." if levels else "Nothing has run.",
        f"Another seed alone moves the loss of the first program by {noise.sd:.4f} nats (standard "
        f"deviation over {noise.seeds} seeds)."
        if noise
        else "The noise has not been measured.",
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


def _same_bits(state: State) -> bool:
    """Whether the winner exported as many bits on every fresh seed as on the one that screened."""
    screened = state.screened(state.incumbent)
    fresh = [state.runs.get((state.incumbent, "fresh", seed)) for seed in state.settings.fresh]
    bits = [ran.bits for ran in (screened, *fresh) if ran is not None and ran.bits is not None]
    return max(bits) - min(bits) <= SAME_BITS
