"""A plan's rules, applied to a model's sites.

Every site first gets the defaults. Block matrices get the plan's format and rank. Embeddings and
heads get rank 0 and a format of at least eight bits. A fresh head is trained in fp32. Then the
rules apply in order, and later ones override earlier ones. A rule without a match is an error.

The format `keep` stands for the format that a matrix has in the checkpoint: that of a GGUF file's
blocks, or the file's own 16 or 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from lowbit.core.errors import UserError
from lowbit.core.spec import BLOCK_ROLES, Choice, Plan, QuantSpec, Rounding, Rule, Site
from lowbit.quant.formats import KEEP, bits_of, is_cast, parse, spell

GRIDS = ("absmean", "absmax", "lsq")
"""Scale rules that ternary training supports."""
LANGUAGE_HEAD = "lm_head"
TRAINED_HEAD = Choice(parse("fp32"), 0, "trained")
NOTHING_STORED: Mapping[str, str] = {}


def choose(
    plan: Plan, sites: Sequence[Site], stored: Mapping[str, str] = NOTHING_STORED
) -> dict[str, Choice]:
    """A choice for every site, or a `UserError` that names the rule or the site at fault.

    `stored`: the checkpoint's own format of each site, which `keep` stands for.
    """
    blocks = 1 + max((s.depth for s in sites if s.depth is not None), default=-1)
    choices = {site.name: _default(plan, site, stored) for site in sites}
    for number, rule in enumerate(plan.rule, 1):
        matching = [site for site in sites if matches(rule, site, blocks)]
        if not matching:
            raise UserError(
                f"plan '{plan.name}': rule {number} ({describe(rule)}) matches no site of this "
                f"model; names of sites are {_sample(sites)}, ..."
            )
        if rule.rank and not any(site.role in BLOCK_ROLES for site in matching):
            raise UserError(
                f"plan '{plan.name}': rule {number} sets a rank for embeddings or heads, which "
                "have no adapters"
            )
        for site in matching:
            if not site.fresh:
                choices[site.name] = _apply(plan, rule, choices[site.name], site, stored)
    _check_ranks(plan, sites, choices)
    _check_trained(plan, sites, choices)
    if plan.ternary is not None and not any(choice.ternary for choice in choices.values()):
        raise UserError(
            f"plan '{plan.name}' has a ternary table, but no block matrix has a ternary format: "
            'set format = "ternary@128"'
        )
    return choices


def _default(plan: Plan, site: Site, stored: Mapping[str, str]) -> Choice:
    if site.fresh:
        return TRAINED_HEAD
    if site.role in BLOCK_ROLES:
        spec = _spec(plan, plan.format, site, stored)
        return _based(
            plan, Choice(spec, plan.rank, rounding=_rounding(plan, plan.format, spec, site)), site
        )
    text = plan.embedding or careful(plan.format)
    spec = _spec(plan, text, site, stored)
    return Choice(spec, rounding=_rounding(plan, text, spec, site))


def stored_in(plan: Plan, site: Site, text: str) -> Choice:
    """A site without an adapter in this format, rounded as the plan does."""
    spec = parse(text)
    return Choice(spec, rounding=_rounding(plan, text, spec, site))


def _rounding(plan: Plan, text: str, spec: QuantSpec, site: Site) -> Rounding:
    """The plan's rounding, for matrices that multiply and formats that have levels."""
    keeps = text == KEEP or is_cast(spec) or not multiplies(site)
    return "nearest" if keeps else plan.rounding


def multiplies(site: Site) -> bool:
    """Whether a site is a block matrix, a language model's head, or an embedding tied to it.

    An embedding of its own has no inputs to calibrate with.
    """
    names = (site.name, *site.aliases)
    return site.role in BLOCK_ROLES or any(n.rpartition(".")[2] == LANGUAGE_HEAD for n in names)


def _spec(plan: Plan, text: str, site: Site, stored: Mapping[str, str]) -> QuantSpec:
    """A format of the plan at a site."""
    if text != KEEP:
        return parse(text)
    for name in (site.name, *site.aliases):
        # A checkpoint of the body alone has names without the leading part.
        for candidate in (name, name.partition(".")[2]):
            if candidate in stored:
                return parse(stored[candidate])
    raise UserError(
        f"plan '{plan.name}' keeps the format of {site.name}, but the checkpoint does not say it"
    )


def careful(text: str) -> str:
    """The default format of embeddings and heads: the plan's, or `int8@row` if that is smaller."""
    return text if text == KEEP or bits_of(parse(text)) >= 8 else "int8@row"


def matches(rule: Rule, site: Site, blocks: int) -> bool:
    """Whether all conditions of a rule hold for a site of a model with `blocks` blocks."""
    if rule.role is not None and rule.role != site.role:
        return False
    if rule.depth and site.depth not in {d + blocks if d < 0 else d for d in rule.depth}:
        return False
    names = (site.name, *site.aliases)
    globs = (rule.name,) if isinstance(rule.name, str) else rule.name or ()
    return rule.name is None or any(fnmatchcase(n, glob) for n in names for glob in globs)


def _based(plan: Plan, choice: Choice, site: Site) -> Choice:
    """The choice, with a trained base if the plan trains this site's ternary matrix."""
    if plan.ternary is None or site.role not in BLOCK_ROLES:
        return choice
    if choice.quant.format == "ternary":
        folds = plan.ternary.folds
        return replace(choice, rank=0, base="trained", folded=folds, rounding="nearest")
    return choice


def _apply(plan: Plan, rule: Rule, choice: Choice, site: Site, stored: Mapping[str, str]) -> Choice:
    if rule.format is not None:
        spec = _spec(plan, rule.format, site, stored)
        was_ternary = choice.ternary
        choice = replace(choice, quant=spec, rounding=_rounding(plan, rule.format, spec, site))
        if was_ternary and choice.quant.format != "ternary":
            choice = Choice(choice.quant, plan.rank, rounding=choice.rounding)
        choice = _based(plan, choice, site)
    if rule.rank is not None and site.role in BLOCK_ROLES:
        choice = replace(choice, rank=rule.rank)
    if rule.base is not None:
        choice = replace(choice, base=rule.base, folded=choice.folded and rule.base == "trained")
    if rule.rounding is not None:
        choice = replace(choice, rounding=_declared_rounding(plan, rule, choice, site))
    if choice.base == "trained":
        return replace(choice, rank=0, rounding="nearest")
    return choice


def _declared_rounding(plan: Plan, rule: Rule, choice: Choice, site: Site) -> Rounding:
    """A rule's rounding, or an error where it would do nothing."""
    assert rule.rounding is not None
    if rule.rounding == "nearest":
        return "nearest"
    reason = ""
    if not multiplies(site):
        reason = "it is neither a block matrix nor a language model's head"
    elif choice.base == "trained":
        reason = "its base is trained"
    elif (rule.format or plan.format) == KEEP:
        reason = "it keeps the checkpoint's codes"
    elif is_cast(choice.quant):
        reason = f"{spell(choice.quant)} has no levels"
    if reason:
        raise UserError(
            f"plan '{plan.name}': rule ({describe(rule)}) sets {rule.rounding} rounding for "
            f"{site.name}, but {reason}"
        )
    return rule.rounding


def _check_ranks(plan: Plan, sites: Sequence[Site], choices: Mapping[str, Choice]) -> None:
    for site in sites:
        rank, most = choices[site.name].rank, min(site.shape)
        if not 0 <= rank <= most:
            raise UserError(
                f"plan '{plan.name}': rank {rank} for {site.name} of {site.shape[0]} x "
                f"{site.shape[1]}; a rank is between 0 and {most}"
            )
    if plan.schedule.kind != "fixed":
        adapted = [c.rank for c in choices.values() if c.rank]
        if not adapted:
            raise UserError(
                f"plan '{plan.name}': the {plan.schedule.kind} schedule has no ranks to cut, "
                "because no matrix has an adapter"
            )
        if sum(adapted) < plan.schedule.target * len(adapted):
            raise UserError(
                f"plan '{plan.name}': the schedule's target rank {plan.schedule.target} is above "
                f"the average rank {sum(adapted) / len(adapted):g} it starts from"
            )


def _check_trained(plan: Plan, sites: Sequence[Site], choices: Mapping[str, Choice]) -> None:
    for site in sites:
        choice = choices[site.name]
        if choice.base != "trained":
            continue
        if site.role == "embedding" or site.aliases:
            raise UserError(
                f"plan '{plan.name}': {site.name}: the base of an embedding or a tied head cannot "
                "be trained"
            )
        if choice.ternary and plan.ternary is not None:
            if choice.quant.dq or choice.quant.scale not in GRIDS:
                raise UserError(
                    f"plan '{plan.name}': {site.name}: ternary training supports the scales "
                    f"{', '.join(GRIDS)} without +dq, not {spell(choice.quant)}"
                )
        elif not is_cast(choice.quant):
            raise UserError(
                f"plan '{plan.name}': {site.name}: a trained base needs fp32, bf16 or fp16, or a "
                f"ternary format and a [plan.{plan.name}.ternary] table; not {spell(choice.quant)}"
            )


def describe(rule: Rule) -> str:
    """A rule's conditions, as the user wrote them."""
    conditions = {"role": rule.role, "depth": list(rule.depth) or None, "name": rule.name}
    return (
        ", ".join(f"{k} = {v!r}" for k, v in conditions.items() if v is not None) or "no condition"
    )


def _sample(sites: Sequence[Site]) -> str:
    return ", ".join(f"'{site.name}'" for site in sites[:3])
