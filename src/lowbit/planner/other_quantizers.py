"""A plan's bits in the words of other quantisers, so that they can make what was planned.

Each knows uniform integers in groups alone: what is no such format (nf4, ternary, a cast) is named
among what could not be said. Formats and keys as of GPTQModel's `dynamic` (regular expressions,
`-:` leaves a module out), AutoRound's `layer_config` (by module name, 16 bits leave it out) and
HQQ's `dynamic_config` (by kind of matrix, the same at every depth). No torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lowbit.core.spec import QuantSpec
from lowbit.quant.formats import is_cast, parse

PACKED = (2, 3, 4, 8)
"""Bits that GPTQModel and AutoRound can pack."""
HQQ = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Maps:
    """By quantiser, what it is to be told; and what it could not be told, in words."""

    bodies: dict[str, dict[str, Any]]
    unsaid: dict[str, tuple[str, ...]]


def maps(formats: Mapping[str, str], outside: Collection[str] = ()) -> Maps:
    """Of the sites that these formats name, in full module names.

    `outside`: embeddings and heads, which these quantisers leave alone or refuse.
    """
    specs = {name: parse(text) for name, text in formats.items()}
    known = {n: spec for n, spec in specs.items() if _integer(spec) and n not in outside}
    packed = {name: spec for name, spec in known.items() if _bits(spec) in PACKED}
    kinds = {name: spec for name, spec in known.items() if _bits(spec) in HQQ}
    casts = [name for name, spec in specs.items() if is_cast(spec)]
    left = [name for name in specs if name not in packed]
    spared = [name for name in specs if name not in kinds]
    hqq, widened = _by_kind(kinds, [name for name in spared if name not in outside])
    return Maps(
        {"gptqmodel": _gptqmodel(packed, left), "autoround": _autoround(packed, left), "hqq": hqq},
        {
            "gptqmodel": _left(formats, left, casts),
            "autoround": _left(formats, left, casts),
            "hqq": _left(formats, spared, casts) + widened,
        },
    )


def _left(formats: Mapping[str, str], left: list[str], casts: list[str]) -> tuple[str, ...]:
    """What is left in 16 bits because it could not be said."""
    return tuple(f"{n}: {formats[n]}, left in 16 bits" for n in left if n not in casts)


def _integer(spec: QuantSpec) -> bool:
    # One scale for a whole matrix is in the words of none of them.
    return re.fullmatch(r"int\d+", spec.format) is not None and spec.group != "tensor"


def _bits(spec: QuantSpec) -> int:
    return int(spec.format.removeprefix("int"))


def _group(spec: QuantSpec) -> int:
    """-1: one scale a row, in the words of all three."""
    return spec.group if isinstance(spec.group, int) else -1


def _span(spec: QuantSpec) -> float:
    """Weights under one scale: a row is longer than any group."""
    return spec.group if isinstance(spec.group, int) else math.inf


def _words(spec: QuantSpec) -> str:
    """Bits and group."""
    return f"{_bits(spec)} bits in {'rows' if _group(spec) < 0 else f'groups of {spec.group}'}"


def _gptqmodel(known: Mapping[str, QuantSpec], casts: list[str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        f"+:^{re.escape(name)}$": {
            "bits": _bits(spec), "group_size": _group(spec), "sym": spec.offset == "none",
        }
        for name, spec in known.items()
    }  # fmt: skip
    return body | {f"-:^{re.escape(name)}$": {} for name in casts}


def _autoround(known: Mapping[str, QuantSpec], casts: list[str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        name: {"bits": _bits(spec), "group_size": _group(spec), "sym": spec.offset == "none"}
        for name, spec in known.items()
    }
    return body | {name: {"bits": 16} for name in casts}


def _by_kind(
    known: Mapping[str, QuantSpec], casts: list[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """HQQ tells kinds of matrices apart, not depths: each kind gets the most that any depth has."""
    kinds: dict[str, dict[str, QuantSpec]] = {}
    for name, spec in known.items():
        kinds.setdefault(_kind(name), {})[name] = spec
    spared = {_kind(name) for name in casts}
    body, widened = {}, []
    for kind, found in kinds.items():
        if kind in spared:
            widened += [f"{name}: left in 16 bits, as {kind} is elsewhere" for name in found]
            continue
        most = max(found.values(), key=lambda spec: (_bits(spec), -_span(spec)))
        body[kind] = {"nbits": _bits(most), "group_size": None if _group(most) < 0 else most.group}
        widened += [
            f"{name}: {_words(most)} instead of {_words(spec)}, as {kind} has elsewhere"
            for name, spec in found.items()
            if spec != most
        ]
    return body, tuple(widened)


def _kind(name: str) -> str:
    """What follows the depth: `self_attn.q_proj` of `model.layers.0.self_attn.q_proj`."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[-1]
