"""Findings as sentences, the same on the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from lowbit.report.figures.style import megabytes
from lowbit.study.claims import Claim
from lowbit.study.verdicts import Finding, Verdicts

NOISE_ADVICE = (
    "Low-bit weights are an unlikely reason for gradients that become noisier during a run. A "
    "frozen base shifts the gradients by a constant offset, which to first order adds no variance. "
    "Batches differ in their curvature, so it adds some variance from the first step on: on a "
    "small model less than 10 % down to 2 bits, while ternary about doubled the variance. Noise "
    "that is drawn again at every step adds more. If the loss suffers, try a smaller learning rate "
    "or a longer warm-up."
)
"""Advice for a run whose gradient variance grows, from the theory of quantisation noise."""

SCALES = {"nats": 1.0, "points": 100.0, "perplexity": 1.0, "bytes": 1.0}
DIGITS = {"nats": 4, "points": 2, "perplexity": 2}


def amount(finding: Finding, value: float, signed: bool = True) -> str:
    """A gain in its unit."""
    if finding.unit == "bytes":
        return ("+" if value >= 0 else "−") * signed + megabytes(abs(value))
    text = f"{SCALES[finding.unit] * value:{'+' if signed else ''}.{DIGITS[finding.unit]}f}"
    return text.replace("-", "−")


def comparison(finding: Finding) -> str:
    """The comparison that a claim makes, in a sentence."""
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
    """The plan, or the mean of several plans, that a claim compares its plan with."""
    if not claim.mean_with:
        return claim.than
    named = (claim.than, *claim.mean_with)
    if len(named) > 3:
        return f"the mean of {claim.than} and {len(claim.mean_with)} more"
    return f"the mean of {', '.join(named[:-1])} and {named[-1]}"


def unit(finding: Finding) -> str:
    return {"bytes": f"({finding.claim.measure})"}.get(finding.unit, finding.unit)


def effect(finding: Finding) -> str:
    """The effect with its interval, then p-values, then seeds and documents."""
    gain = finding.gain
    if gain is None:
        return finding.reason
    if finding.unit == "bytes":
        share = gain.estimate / finding.level if finding.level else 0.0
        more = f"; {finding.reason}" if finding.reason else ""
        percent = f"{100 * share:.1f} %".replace("-", "−")
        return f"saves {amount(finding, gain.estimate)} {unit(finding)}, {percent}{more}"
    text = (
        f"gain {amount(finding, gain.estimate)} {unit(finding)} (95 % {amount(finding, gain.low)} "
        f"to {amount(finding, gain.high)})"
    )
    if finding.p is not None:
        text += f", p {probability(finding.p)}"
    if finding.adjusted is not None:
        text += f", by Holm p {probability(finding.adjusted)}"
    seeds = (
        f"{finding.seeds} of {finding.declared_seeds}"
        if finding.seeds < finding.declared_seeds
        else (f"{finding.seeds}")
    )
    more = f"; {finding.reason}" if finding.reason else ""
    word = "seed" if seeds == "1" else "seeds"
    return f"{text}; {seeds} {word}, {gain.documents} documents{more}"


def other_tests(finding: Finding) -> str:
    """Results of the other tests over the same pairs."""
    tests = finding.other_tests
    if tests is None:
        return ""
    parts = []
    if tests.effect_size is not None:
        parts.append(f"effect size over seeds {tests.effect_size:+.2f}".replace("-", "−"))
    for name, p in (("t", tests.t), ("Wilcoxon", tests.wilcoxon), ("TOST", tests.tost)):
        if p is not None:
            parts.append(f"{name} p {probability(p)}")
    if tests.pooled is not None:
        each = ", ".join(f"p {probability(test.p)}" for test in tests.mcnemar)
        parts.append(
            f"McNemar pooled {tests.pooled.only_a}:{tests.pooled.only_b} "
            f"p {probability(tests.pooled.p)} (by seed {each})"
        )
    return "; ".join(parts)


def probability(p: float) -> str:
    """A p-value with its relation sign, to follow the name of a test."""
    return f"= {p:.2g}" if p >= 0.001 else "< 0.001"


def to_markdown(verdicts: Verdicts) -> str:
    """Claims, questions and missing runs as Markdown."""
    lines = ["## Claims", ""]
    lines += _table(verdicts.claims) or ["None."]
    lines += [
        "",
        "## Questions",
        "",
        "Exploratory: p-values are not corrected, and no verdict depends on them.",
        "",
    ]
    lines += _table(verdicts.questions) or ["None."]
    if verdicts.missing:
        names = "; ".join(runs_by_seed(verdicts.missing))
        lines += ["", f"{len(verdicts.missing)} runs are missing: {names}."]
    return "\n".join(lines) + "\n"


def runs_by_seed(names: Sequence[str]) -> list[str]:
    """Names of runs; runs that differ only in their seed share one name."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        stem, _, seed = name.rpartition("-seed")
        seeds.setdefault(stem, []).append(seed)
    return [f"{stem}-seed{','.join(run_seeds)}" for stem, run_seeds in seeds.items()]


def _table(findings: tuple[Finding, ...]) -> list[str]:
    if not findings:
        return []
    rows = [
        (_cell(finding.claim.text), finding.state, _cell(effect(finding)),
         _cell(other_tests(finding)))
        for finding in findings
    ]  # fmt: skip
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return ["| claim | verdict | effect | other tests |", "| --- | --- | --- | --- |", *lines]


def _cell(text: str) -> str:
    escapes = str.maketrans({"|": r"\|", "<": "&lt;", "&": "&amp;", "\n": " "})
    return text.translate(escapes)
