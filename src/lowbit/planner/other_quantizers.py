"""A plan's bits as config files for GPTQModel, AutoRound and HQQ, so that they can carry it out.

These tools store integers with one scale per group or row, and nothing else. Sites in any other
format (nf4, ternary, a cast) stay in 16 bits there, and are listed as skipped. The formats are
GPTQModel's `dynamic` (regular expressions; `-:` skips a module), AutoRound's `layer_config` (by
module name; 16 bits skip a module) and HQQ's `dynamic_config` (by kind of matrix, the same at every
depth). No torch.
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

Config = dict[str, Any]
"""The JSON body of one tool's config file."""


@dataclass(frozen=True)
class QuantizerConfigs:
    """By tool: its config, and one sentence for every site that it cannot store as planned."""

    configs: dict[str, Config]
    skipped: dict[str, tuple[str, ...]]


def quantizer_configs(
    formats: Mapping[str, str], outside: Collection[str] = ()
) -> QuantizerConfigs:
    """The configs for sites with these formats, by full module name.

    `outside`: embeddings and heads, which these tools skip or reject.
    """
    specs = {name: parse(text) for name, text in formats.items()}
    integers = {n: spec for n, spec in specs.items() if _is_integer(spec) and n not in outside}
    packed = {name: spec for name, spec in integers.items() if _bits(spec) in PACKED}
    for_hqq = {name: spec for name, spec in integers.items() if _bits(spec) in HQQ}
    casts = [name for name, spec in specs.items() if is_cast(spec)]
    unpacked = [name for name in specs if name not in packed]
    not_hqq = [name for name in specs if name not in for_hqq]
    hqq, widened = _by_kind(for_hqq, [name for name in not_hqq if name not in outside])
    configs = {
        "gptqmodel": _gptqmodel(packed, unpacked),
        "autoround": _autoround(packed, unpacked),
        "hqq": hqq,
    }
    skipped = {
        "gptqmodel": _skipped(formats, unpacked, casts),
        "autoround": _skipped(formats, unpacked, casts),
        "hqq": _skipped(formats, not_hqq, casts) + widened,
    }
    return QuantizerConfigs(configs, skipped)


def _skipped(formats: Mapping[str, str], names: list[str], casts: list[str]) -> tuple[str, ...]:
    """The sites that stay in 16 bits although the plan stores them in fewer."""
    return tuple(f"{n}: {formats[n]}, left in 16 bits" for n in names if n not in casts)


def _is_integer(spec: QuantSpec) -> bool:
    # None of the tools can express one scale for a whole matrix.
    return re.fullmatch(r"int\d+", spec.format) is not None and spec.group != "tensor"


def _bits(spec: QuantSpec) -> int:
    return int(spec.format.removeprefix("int"))


def _group(spec: QuantSpec) -> int:
    """The group size; -1 means one scale per row in all three tools."""
    return spec.group if isinstance(spec.group, int) else -1


def _span(spec: QuantSpec) -> float:
    """Weights that share a scale; a row counts as longer than any group."""
    return spec.group if isinstance(spec.group, int) else math.inf


def _described(spec: QuantSpec) -> str:
    """`4 bits in groups of 64`."""
    return f"{_bits(spec)} bits in {'rows' if _group(spec) < 0 else f'groups of {spec.group}'}"


def _layer(spec: QuantSpec) -> Config:
    return {"bits": _bits(spec), "group_size": _group(spec), "sym": spec.offset == "none"}


def _gptqmodel(packed: Mapping[str, QuantSpec], unpacked: list[str]) -> Config:
    body: Config = {f"+:^{re.escape(name)}$": _layer(spec) for name, spec in packed.items()}
    return body | {f"-:^{re.escape(name)}$": {} for name in unpacked}


def _autoround(packed: Mapping[str, QuantSpec], unpacked: list[str]) -> Config:
    body: Config = {name: _layer(spec) for name, spec in packed.items()}
    return body | {name: {"bits": 16} for name in unpacked}


def _by_kind(integers: Mapping[str, QuantSpec], rest: list[str]) -> tuple[Config, tuple[str, ...]]:
    """HQQ configures kinds of matrices, not depths: each kind gets the most bits of any depth.

    `rest`: matrices that stay in 16 bits, and with them every matrix of their kind.
    """
    kinds: dict[str, dict[str, QuantSpec]] = {}
    for name, spec in integers.items():
        kinds.setdefault(_kind(name), {})[name] = spec
    in_16_bits = {_kind(name) for name in rest}
    body: Config = {}
    widened: list[str] = []
    for kind, specs in kinds.items():
        if kind in in_16_bits:
            widened += [f"{name}: left in 16 bits, as {kind} is elsewhere" for name in specs]
            continue
        most = max(specs.values(), key=lambda spec: (_bits(spec), -_span(spec)))
        body[kind] = {"nbits": _bits(most), "group_size": None if _group(most) < 0 else most.group}
        widened += [
            f"{name}: {_described(most)} instead of {_described(spec)}, as {kind} has elsewhere"
            for name, spec in specs.items()
            if spec != most
        ]
    return body, tuple(widened)


def _kind(name: str) -> str:
    """The part after the depth: `self_attn.q_proj` of `model.layers.0.self_attn.q_proj`."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[-1]
