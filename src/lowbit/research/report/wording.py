"""The results of a campaign in sentences: final evaluation, priorities, method and caveats."""

from __future__ import annotations

from collections.abc import Mapping

from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.significance import SAME_BITS, noise_of
from lowbit.research.campaign.state import CampaignState, Trial
from lowbit.research.report.findings import FinalEvaluation, PriorityTrials


def result_sentences(state: CampaignState, final: FinalEvaluation | None) -> list[str]:
    """What the sealed text and the fresh seeds show; the sealed text first."""
    if final is None:
        return [
            "Not run yet. lowbit research report --ending removes the kept changes one at a time, "
            "trains the best program on fresh seeds, and opens the sealed text."
        ]
    sealed = _sealed(final)
    if not state.keeps:
        return [f"No change was kept, so there is nothing to replicate. {sealed}".strip()]
    return [sentence for sentence in (sealed, _replication(final)) if sentence]


def _replication(final: FinalEvaluation) -> str:
    """The gain on confirmation text: on the seeds that decided the keeps, then on fresh seeds."""
    first = (
        f"On confirmation text, the seeds that decided the keeps show a gain of "
        f"{interval(final.claimed)} nats. "
        if final.claimed is not None
        else ""
    )
    if final.fresh is None:
        return f"{first}The runs on fresh seeds did not finish, so the gain is not replicated."
    return (
        f"{first}Fresh seeds show {interval(final.fresh)} nats. {_conclusion(final, final.fresh)}"
    )


def _conclusion(final: FinalEvaluation, fresh: Difference) -> str:
    """Whether the gain is replicated and how much of it is lost, without a guess at why."""
    share = final.shrinkage
    smaller = "" if share is None or share <= 0 else f"{100 * min(share, 1):.0f} % smaller"
    if fresh.estimate <= 0:
        return "The gain is not replicated: fresh seeds show none."
    if fresh.low <= 0:
        size = f" The estimate is {smaller}." if smaller else ""
        return f"The gain is not replicated: its interval includes zero.{size}"
    return f"The gain is replicated; it is {smaller or 'no smaller'}."


def _sealed(final: FinalEvaluation) -> str:
    """Perplexity, size and gain on the sealed text; empty where it was not scored."""
    if final.sealed_perplexity is None:
        return ""
    ours, theirs = final.sealed_perplexity
    own_bits, first_bits = (
        (f" at {bits:.3f} bits a weight" for bits in final.bits) if final.bits else ("", "")
    )
    best = f"On the sealed text, opened once, the best program has perplexity {ours:.3f}{own_bits}"
    if final.sealed is None:
        return f"{best}."
    zero_note = (
        "" if final.sealed.low > 0 else " It is not significant: the interval includes zero."
    )
    return (
        f"{best}; the first program has {theirs:.3f}{first_bits}. "
        f"The gain is {interval(final.sealed)} nats.{zero_note}"
    )


def interval(gain: Difference) -> str:
    """A gain with its 95 % interval in brackets."""
    return f"{gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def priority_sentences(
    state: CampaignState, priority: PriorityTrials, ablations: Mapping[int, Difference | None]
) -> str:
    """How many changes were tried, at which stage they failed, and which were kept."""
    if not priority.trials:
        return "Nothing was tried."
    count = len(priority.trials)
    lead = f"{count} change{'' if count == 1 else 's'} tried.{_failures(state, priority)}"
    if not priority.keeps:
        return f"{lead} None was kept."
    keeps = "; ".join(
        f"{t.description} (gain {t.gain or 0:+.4f} nats{_ablation(t, ablations)})"
        for t in priority.keeps
    )
    return f"{lead} Kept: {keeps}."


def _failures(state: CampaignState, priority: PriorityTrials) -> str:
    """How many crashed and how many each stage discarded; a slow machine may explain some."""
    crashed = sum(trial.status == "crash" for trial in priority.trials)
    discarded = [trial for trial in priority.trials if trial.status == "discard"]
    unconfirmed = [trial for trial in discarded if trial.confirmation is None]
    fewer = sum(_fewer_tokens(state, trial) for trial in unconfirmed)
    text = f" {crashed} crashed." if crashed else ""
    if unconfirmed:
        text += f" Discarded after screening: {len(unconfirmed)}"
        text += (
            f" ({fewer} of them trained on fewer tokens than the best program)." if fewer else "."
        )
    if len(discarded) > len(unconfirmed):
        text += f" Discarded after confirmation: {len(discarded) - len(unconfirmed)}."
    return text


def _fewer_tokens(state: CampaignState, trial: Trial) -> bool:
    """Whether its screening run trained on fewer tokens: a slower change, or a slower machine."""
    ours, theirs = state.screening_run(trial.commit), state.screening_run(trial.base)
    return ours is not None and theirs is not None and ours.tokens < theirs.tokens


def _ablation(trial: Trial, ablations: Mapping[int, Difference | None]) -> str:
    loss = ablations.get(trial.number)
    if loss is None:
        return ""
    zero_note = "" if loss.low > 0 else ", not significant"
    return f"; loss rises by {loss.estimate:+.4f} when it is removed at the end{zero_note}"


def notes(state: CampaignState) -> list[str]:
    """Method and caveats: the test, the isolation, the noise, and what limits the results."""
    settings = state.settings
    unsealed = [str(t.number) for t in state.judged_trials if t.unsealed and t.status == "keep"]
    levels = sorted({run.level for run in state.runs.values()})
    sentences = [
        f"Every kept change passed a paired test over {len(settings.confirmation_seeds)} seeds "
        "and all articles of the confirmation text. The tests of the whole campaign share one "
        f"alpha of {settings.alpha:g}.",
        f"Isolation of the candidates: {'; '.join(levels)}." if levels else "Nothing has run.",
        *_noises(state),
        "The sealed text was opened once."
        if state.sealed_commits
        else "The sealed text has not been opened.",
    ]
    if state.ending is not None and not _same_bits(state):
        sentences.append(
            "The best program exported a different number of bits on fresh seeds than in "
            "screening. Its figures therefore do not describe one program."
        )
    if unsealed:
        sentences.append(
            f"UNSEALED: kept trials {', '.join(unsealed)} ran where files or the network were "
            "within reach of the candidate."
        )
    return sentences


def _noises(state: CampaignState) -> list[str]:
    """How much the first program's loss varies: with a fixed time, and with fixed tokens."""
    losses = [run.scores["screening"].loss for run in state.baseline() if not run.reason]
    if len(losses) < 2:
        return ["The noise has not been measured."]
    tokens = sorted(run.tokens for run in state.baseline())
    sentences = [
        "With a fixed training time, the loss of the first program has a standard deviation of "
        f"{noise_of(losses).sd:.4f} nats over {len(losses)} seeds, which trained on "
        f"{tokens[0]:,} to {tokens[-1]:,} tokens. This includes the machine's speed. "
        "Screening therefore only decides whether a change is worth a confirmation."
    ]
    confirmed = state.confirmation_losses(state.base)
    if confirmed:
        sentences.append(
            f"With {state.tokens():,} tokens a run, as in confirmations, it is "
            f"{noise_of(confirmed).sd:.4f} nats."
        )
    return sentences


def _same_bits(state: CampaignState) -> bool:
    """Whether the best program exported as many bits on every fresh seed as in screening."""
    screened = state.screening_run(state.incumbent)
    fresh = [state.runs.get((state.incumbent, "fresh", seed)) for seed in state.settings.fresh]
    bits = [run.bits for run in (screened, *fresh) if run is not None and run.bits is not None]
    return max(bits) - min(bits) <= SAME_BITS
