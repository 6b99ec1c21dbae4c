"""Formats as data: levels, how codes are packed, and the rules that may go with them.

A format is a sorted list of levels in [-1, 1], stored as indices into that list. Everything else
(encoding, decoding, packing, byte counts, error bounds) is derived from the list, so a new format
is one more entry of `FORMATS`. This module does not import torch, so plans can be checked quickly.

A short string names a format with its options. `nf4@64+dq` is the format nf4 in groups of 64 whose
scales are quantised too:
    FORMAT [@GROUP] [:SUFFIX ...] [+dq]
GROUP is a number, `row` or `tensor` (default 64). The suffixes `sym`, `full` and `even` choose
integer levels. `zp` and `min` add an offset (an integer zero-point, or the group's minimum);
`steps` is `min` with the scales of GGUF's Q4_1 and Q5_1. `absmax`, `absmean`, `lsq` and `mse`
choose the scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

from lowbit.core.errors import UserError, nearest
from lowbit.core.spec import Group, OffsetRule, QuantSpec, ScaleRule
from lowbit.quant.levels import NF4, Levels, int_levels, normal_levels, signed


@dataclass(frozen=True)
class Packing:
    """How codes become bytes.

    A unit of `bytes` bytes holds `codes` codes: the digits, in base `radix`, of one little-endian
    number. Decoding cuts a unit into words of `word_codes` codes, `word_bits` bits apart, and looks
    up each word in a table.
    """

    codes: int
    bytes: int
    radix: int
    word_codes: int
    word_bits: int

    @property
    def words(self) -> int:
        return self.codes // self.word_codes

    @property
    def entries(self) -> int:
        return int(self.radix**self.word_codes)

    def row_bytes(self, columns: int) -> int:
        """Bytes of one packed row: the last unit is padded."""
        return -(-columns // self.codes) * self.bytes


def _bits(bits: int, codes: int, word_codes: int) -> Packing:
    return Packing(codes, codes * bits // 8, 2**bits, word_codes, word_codes * bits)


PACKINGS: dict[int, Packing] = {
    2: _bits(2, 4, 4),
    3: _bits(3, 8, 4),
    4: _bits(4, 2, 2),
    5: _bits(5, 8, 2),
    6: _bits(6, 4, 2),
    7: _bits(7, 8, 2),
    8: _bits(8, 1, 1),
}
TERNARY_PACKING = Packing(codes=5, bytes=1, radix=3, word_codes=5, word_bits=8)


@dataclass(frozen=True)
class Format:
    """A format: the levels of each variant (the first is the default), and how codes are packed."""

    name: str
    family: str
    bits: float
    packing: Packing
    variants: dict[str, Callable[[], Levels]]
    scale: ScaleRule = "absmax"
    offsets: tuple[str, ...] = ("none",)


@dataclass(frozen=True)
class Cast:
    """A plain floating-point type with `precision` significant bits; weights are not quantised."""

    name: str
    bits: int
    precision: int


def _integer(bits: int) -> Format:
    order = ("even", "sym", "full") if bits == 2 else ("sym", "full", "even")
    return Format(
        name=f"int{bits}",
        family="int",
        bits=bits,
        packing=PACKINGS[bits],
        variants={v: (lambda v=v: int_levels(bits, v)) for v in order},  # type: ignore[misc]
        offsets=("none", "zp", "min", "steps"),
    )


def _plain(name: str, family: str, bits: int, levels: Callable[[], Levels]) -> Format:
    return Format(name, family, bits, PACKINGS[bits], {"": levels})


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(_integer(bits) for bits in range(2, 9)),
        _plain("nf2", "nf", 2, lambda: normal_levels(2)),
        _plain("nf3", "nf", 3, lambda: normal_levels(3)),
        _plain("nf4", "nf", 4, lambda: NF4),
        # OCP microscaling E2M1, and the 4-bit float that bitsandbytes calls fp4.
        _plain("fp4-e2m1", "fp4-e2m1", 4, lambda: signed((0, 0.5, 1, 1.5, 2, 3, 4, 6))),
        _plain("fp4-bnb", "fp4-bnb", 4, lambda: signed((0, 0.0625, 2, 3, 4, 6, 8, 12))),
        Format(
            "ternary", "ternary", 1.6, TERNARY_PACKING, {"": lambda: (-1.0, 0.0, 1.0)}, "absmean"
        ),
    )
}
CASTS: dict[str, Cast] = {
    c.name: c for c in (Cast("fp32", 32, 24), Cast("bf16", 16, 8), Cast("fp16", 16, 11))
}

KEEP = "keep"
"""In a plan: the format that a matrix has in the checkpoint."""

_SCALES = ("absmax", "absmean", "lsq", "mse")
_OFFSETS = {"zp": ("zp", "unit"), "min": ("min", "unit"), "steps": ("min", "steps")}
"""Suffix -> offset rule, and the levels that go with it."""
_TEXT = re.compile(r"(?P<name>[^@:+]+)(@(?P<group>[^@:+]+))?(?P<suffixes>(:[^@:+]+)*)(?P<dq>\+dq)?")


@lru_cache(maxsize=4096)
def parse(text: str) -> QuantSpec:
    """`nf4@64+dq` -> QuantSpec, or an error that names the wrong part."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"'{text}' is not a format: expected FORMAT[@GROUP][:SUFFIX...][+dq]")
    name, suffixes = match["name"], match["suffixes"].split(":")[1:]
    if name in CASTS:
        if match["group"] or suffixes or match["dq"]:
            raise UserError(f"'{text}': {name} has no groups, scales or offsets; write '{name}'")
        return QuantSpec(name, "", "tensor", "none", "none", False)
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}' in '{text}'.{nearest_format(text.strip())}")
    return _assemble(text, FORMATS[name], match["group"], suffixes, match["dq"] is not None)


def nearest_format(text: str, others: Iterable[str] = ()) -> str:
    """The end of an error message for an unknown format, or an unknown name among `others`.

    Formats are suggested with the same group and suffixes if they allow them.

    >>> nearest_format("int9@64")
    " Did you mean 'int8@64'?"
    """
    options = text[len(_stem(text)) :]
    return nearest(text, [*others, *(_with_options(form, options) for form in FORMATS), *CASTS])


def _stem(text: str) -> str:
    return re.split("[@:+]", text, maxsplit=1)[0]


def _with_options(form: str, options: str) -> str:
    """A format with a group and suffixes; without them if it does not allow them."""
    try:
        parse(form + options)
    except UserError:
        return form
    return form + options


def is_format(text: str) -> bool:
    """Whether a text starts with the name of a format; the rest may still be wrong."""
    return _stem(text) in FORMATS or _stem(text) in CASTS


def _assemble(
    text: str, form: Format, group: str | None, suffixes: list[str], dq: bool
) -> QuantSpec:
    variant, scale = next(iter(form.variants)), form.scale
    offset = ""
    kinds: set[str] = set()
    for suffix in suffixes:
        if suffix in form.variants and suffix:
            kind, variant = "levels", suffix
        elif suffix in _SCALES:
            kind, scale = "scale", cast(ScaleRule, suffix)
        elif suffix in _OFFSETS and suffix in form.offsets:
            kind, offset = "offset", suffix
        else:
            valid = [v for v in (*form.variants, *_SCALES, *form.offsets) if v not in ("", "none")]
            raise UserError(f"'{text}': unknown suffix ':{suffix}'.{nearest(suffix, valid)}")
        if kind in kinds:
            raise UserError(f"'{text}': two suffixes choose the {kind}")
        kinds.add(kind)
    rule: OffsetRule = "none"
    if offset:
        if kinds & {"levels", "scale"}:
            raise UserError(
                f"'{text}': with :{offset} the group's range sets the levels and the scale; remove "
                "the other suffix"
            )
        rule, variant = cast("tuple[OffsetRule, str]", _OFFSETS[offset])
        scale = "absmax"
    return QuantSpec(form.name, variant, _group(text, group), scale, rule, dq)


def _group(text: str, group: str | None) -> Group:
    if group is None:
        return 64
    if group in ("row", "tensor"):
        return cast(Group, group)
    if not group.isdecimal() or int(group) == 0:
        raise UserError(f"'{text}': a group is a positive number, 'row' or 'tensor', not '{group}'")
    return int(group)


def spell(spec: QuantSpec) -> str:
    """The canonical short string: `parse(spell(s)) == s`."""
    if spec.format in CASTS:
        return spec.format
    form = FORMATS[spec.format]
    parts = [f"{spec.format}@{spec.group}"]
    if spec.variant not in ("unit", next(iter(form.variants))):
        parts.append(f":{spec.variant}")
    if spec.offset != "none":
        parts.append("" if spec.variant == "steps" else f":{spec.offset}")
    elif spec.scale != form.scale:
        parts.append(f":{spec.scale}")
    return "".join(parts) + ("+dq" if spec.dq else "")


@cache
def levels_of(spec: QuantSpec) -> Levels:
    """The sorted levels of a spec; codes are indices into them."""
    form = FORMATS[spec.format]
    return (
        int_levels(int(form.bits), spec.variant)
        if spec.variant in ("unit", "steps")
        else form.variants[spec.variant]()
    )


def bits_of(spec: QuantSpec) -> float:
    """Bits of one code, before padding and scales."""
    return CASTS[spec.format].bits if spec.format in CASTS else FORMATS[spec.format].bits


def is_cast(spec: QuantSpec) -> bool:
    return spec.format in CASTS
