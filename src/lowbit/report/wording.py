"""Findings in words: the same sentences on the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from lowbit.report.figures.style import megabytes
from lowbit.study.claims import Claim
from lowbit.study.verdicts import Finding, Verdicts

NOISY = (
    "The base's bits are hardly why gradients became noisier during a run: a frozen base shifts "
    "them by an offset that stays, which to first order adds no variance. Since batches differ in "
    "their curvature it adds some after all, but from the first step on: on a small model less "
    "than 10 % down to 2 bits, while ternary about doubled the variance. Noise drawn anew at every "
    "step adds more. If the loss suffers, a smaller learning rate or a longer warm-up is what to "
    "try."
)
"""What the theory says to a gradient's variance that grows."""

SCALES = {"nats": 1.0, "points": 100.0, "perplexity": 1.0, "bytes": 1.0}
DIGITS = {"nats": 4, "points": 2, "perplexity": 2}


def amount(finding: Finding, value: float, signed: bool = True) -> str:
    """A gain in its unit."""
    if finding.unit == "bytes":
        return ("+" if value >= 0 else "−") * signed + megabytes(abs(value))
    text = f"{SCALES[finding.unit] * value:{'+' if signed else ''}.{DIGITS[finding.unit]}f}"
    return text.replace("-", "−")


def asked(finding: Finding) -> str:
    """What is held against what."""
    claim = finding.claim
    margin = ""
    if finding.margin:
        size = amount(finding, finding.margin, signed=False)
        margin = (
            f" by {size} {unit(finding)}"
            if claim.relation == "better"
            else (f" within {size} {unit(finding)}")
        )
    more = f", more than {claim.less[0]} than {claim.less[1]}" if claim.less else ""
    return (
        f"{claim.plan} {claim.relation}{' than' if claim.relation != 'equal' else ' to'} "
        f"{_others(claim)}{more}, on {claim.task}{margin}"
    )


def _others(claim: Claim) -> str:
    """What a claim holds its plan against, be it a mean of several."""
    if not claim.mean_with:
        return claim.than
    named = (claim.than, *claim.mean_with)
    if len(named) > 3:
        return f"the mean of {claim.than} and {len(claim.mean_with)} more"
    return f"the mean of {', '.join(named[:-1])} and {named[-1]}"


def unit(finding: Finding) -> str:
    return {"bytes": f"({finding.claim.measure})"}.get(finding.unit, finding.unit)


def effect(finding: Finding) -> str:
    """Effect first, then its p-value."""
    gain = finding.gain
    if gain is None:
        return finding.reason
    if finding.unit == "bytes":
        share = gain.estimate / finding.level if finding.level else 0.0
        more = f"; {finding.reason}" if finding.reason else ""
        percent = f"{100 * share:.1f} %".replace("-", "−")
        return f"saves {amount(finding, gain.estimate)} {unit(finding)}, {percent}{more}"
    said = (
        f"gain {amount(finding, gain.estimate)} {unit(finding)} (95 % {amount(finding, gain.low)} "
        f"to {amount(finding, gain.high)})"
    )
    if finding.p is not None:
        said += f", p {probability(finding.p)}"
    if finding.adjusted is not None:
        said += f", by Holm p {probability(finding.adjusted)}"
    seeds = (
        f"{finding.seeds} of {finding.declared_seeds}"
        if finding.seeds < finding.declared_seeds
        else (f"{finding.seeds}")
    )
    more = f"; {finding.reason}" if finding.reason else ""
    word = "seed" if seeds == "1" else "seeds"
    return f"{said}; {seeds} {word}, {gain.documents} documents{more}"


def beside(finding: Finding) -> str:
    """The other tests, over the same pairs."""
    found = finding.beside
    if found is None:
        return ""
    parts = []
    if found.effect_size is not None:
        parts.append(f"effect size over seeds {found.effect_size:+.2f}".replace("-", "−"))
    for name, p in (("t", found.t), ("Wilcoxon", found.wilcoxon), ("TOST", found.tost)):
        if p is not None:
            parts.append(f"{name} p {probability(p)}")
    if found.pooled is not None:
        each = ", ".join(f"p {probability(one.p)}" for one in found.mcnemar)
        parts.append(
            f"McNemar pooled {found.pooled.only_a}:{found.pooled.only_b} "
            f"p {probability(found.pooled.p)} (by seed {each})"
        )
    return "; ".join(parts)


def probability(p: float) -> str:
    """With its sign, as it stands after the name of a test."""
    return f"= {p:.2g}" if p >= 0.001 else "< 0.001"


def to_markdown(verdicts: Verdicts) -> str:
    """Claims, questions, and what is missing."""
    lines = ["## Claims", ""]
    lines += _table(verdicts.claims) or ["None."]
    lines += ["", "## Questions", "", "Exploratory: not corrected, and decided by nothing.", ""]
    lines += _table(verdicts.questions) or ["None."]
    if verdicts.missing:
        names = "; ".join(gathered(verdicts.missing))
        lines += ["", f"{len(verdicts.missing)} runs are missing: {names}."]
    return "\n".join(lines) + "\n"


def gathered(names: Sequence[str]) -> list[str]:
    """A run's name, or several that differ in their seed alone as one."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        stem, _, seed = name.rpartition("-seed")
        seeds.setdefault(stem, []).append(seed)
    return [f"{stem}-seed{','.join(mine)}" for stem, mine in seeds.items()]


def _table(findings: tuple[Finding, ...]) -> list[str]:
    if not findings:
        return []
    rows = [
        f"| {_cell(one.claim.text)} | {one.state} | {_cell(effect(one))} | {_cell(beside(one))} |"
        for one in findings
    ]
    return ["| | | effect | beside it |", "| --- | --- | --- | --- |", *rows]


def _cell(text: str) -> str:
    escapes = str.maketrans({"|": r"\|", "<": "&lt;", "&": "&amp;", "\n": " "})
    return text.translate(escapes)
