"""What a person may write as a format, and what they are told when they may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.core.spec import QuantSpec
from lowbit.quant.formats import CASTS, FORMATS, parse, spell


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("nf4", QuantSpec("nf4", "", 64, "absmax", "none", False)),
        ("nf4@64+dq", QuantSpec("nf4", "", 64, "absmax", "none", True)),
        ("int8@row", QuantSpec("int8", "sym", "row", "absmax", "none", False)),
        ("int2@32", QuantSpec("int2", "even", 32, "absmax", "none", False)),
        ("int2@64:sym", QuantSpec("int2", "sym", 64, "absmax", "none", False)),
        ("int4@64:full:mse+dq", QuantSpec("int4", "full", 64, "mse", "none", True)),
        ("int4@64:mse:full", QuantSpec("int4", "full", 64, "mse", "none", False)),
        ("int4@64:zp", QuantSpec("int4", "unit", 64, "absmax", "zp", False)),
        ("int4:min", QuantSpec("int4", "unit", 64, "absmax", "min", False)),
        ("ternary@128", QuantSpec("ternary", "", 128, "absmean", "none", False)),
        ("ternary@tensor:lsq", QuantSpec("ternary", "", "tensor", "lsq", "none", False)),
        ("  bf16 ", QuantSpec("bf16", "", "tensor", "none", "none", False)),
    ],
)
def test_a_string_says_how_a_matrix_is_stored(text: str, spec: QuantSpec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nf4", "nf4@64"),
        ("ternary:absmean", "ternary@64"),
        ("int4@064:sym:absmax", "int4@64"),
        ("int2:even", "int2@64"),
        ("int4@row:mse:full", "int4@row:full:mse"),
        ("bf16", "bf16"),
    ],
)
def test_each_meaning_has_one_canonical_spelling(text: str, canonical: str) -> None:
    assert spell(parse(text)) == canonical
    assert spell(parse(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("nf5", "nf4"),
        ("NF4", "nf4"),
        ("int44", "int4"),
        ("fp4-e2m", "fp4-e2m1"),
        ("bf61", "bf16"),
        ("ternry@128", "ternary@128"),
        ("int9@64", "int8@64"),
        ("int1@row:mse+dq", "int2@row:mse+dq"),
        ("int9@0", "int8"),
        ("bf61@64", "bf16"),
    ],
)
def test_an_unknown_format_suggests_the_nearest_valid_one(text: str, meant: str) -> None:
    message = refused(text)
    assert f"'{text.split('@')[0]}'" in message
    assert f"Did you mean '{meant}'?" in message


def test_a_name_far_from_all_others_lists_the_valid_names() -> None:
    message = refused("zzzzzzzz")
    assert all(name in message for name in (*FORMATS, *CASTS))


@pytest.mark.parametrize(
    ("text", "part", "meant"),
    [
        ("int4@64:abxmax", ":abxmax", "absmax"),
        ("int4:ful", ":ful", "full"),
        ("int4:unit", ":unit", None),
        ("int4:none", ":none", None),
        ("nf4:zp", ":zp", None),
        ("nf4:sym", ":sym", None),
        ("ternary:min", ":min", None),
    ],
)
def test_an_unknown_suffix_is_named_with_what_is_valid(
    text: str, part: str, meant: str | None
) -> None:
    message = refused(text)
    assert f"'{text}'" in message
    assert f"'{part}'" in message
    assert "Did you mean" in message or "Valid: " in message
    assert meant is None or f"'{meant}'" in message


@pytest.mark.parametrize("group", ["0", "-64", "6.5", "rows", "1e3", "²"])
def test_a_group_is_a_positive_number_row_or_tensor(group: str) -> None:
    message = refused(f"int4@{group}")
    assert f"'{group}'" in message
    assert "'row'" in message
    assert "'tensor'" in message


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("rest", ["@64", "@row", ":absmax", "+dq", "@64:zp+dq"])
def test_a_plain_type_takes_no_group_suffix_or_double_quantisation(name: str, rest: str) -> None:
    assert f"write '{name}'" in refused(name + rest)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("int4:sym:full", "levels"),
        ("int4:sym:sym", "levels"),
        ("int4:mse:lsq", "scale"),
        ("nf4:mse:mse", "scale"),
        ("int4:zp:min", "offset"),
        ("int4:zp:zp", "offset"),
    ],
)
def test_two_suffixes_of_one_kind_are_refused(text: str, what: str) -> None:
    assert f"two suffixes choose the {what}" in refused(text)


@pytest.mark.parametrize("text", ["int4:zp:full", "int4:mse:zp", "int8@row:min:sym+dq"])
def test_an_offset_takes_neither_levels_nor_scale(text: str) -> None:
    assert "remove the other suffix" in refused(text)


@pytest.mark.parametrize(
    "text", ["", " ", "@64", ":sym", "+dq", "int4@", "int4:", "int4+dq@64", "int4+dq+dq", "int4+d"]
)
def test_what_cannot_be_read_is_shown_the_grammar(text: str) -> None:
    assert "FORMAT[@GROUP][:SUFFIX...][+dq]" in refused(text)


@given(st.text(alphabet="abdefilmnopqrstxyz0123456789@:+- ", max_size=20))
def test_any_text_is_read_or_refused_as_the_users_mistake(text: str) -> None:
    try:
        spec = parse(text)
    except UserError:
        return
    assert parse(spell(spec)) == spec


@given(
    st.sampled_from(list(FORMATS)),
    st.sampled_from(["", "@1", "@row", "@tensor", "@100"]),
    st.lists(
        st.sampled_from(["sym", "full", "even", "zp", "min", "absmax", "absmean", "lsq", "mse"]),
        max_size=3,
    ),
    st.sampled_from(["", "+dq"]),
)
def test_a_string_that_is_read_is_spelled_and_read_back(
    name: str, group: str, suffixes: list[str], dq: str
) -> None:
    text = name + group + "".join(f":{suffix}" for suffix in suffixes) + dq
    try:
        spec = parse(text)
    except UserError:
        return
    assert parse(spell(spec)) == spec
    assert (spec.format, spec.dq) == (name, dq == "+dq")
