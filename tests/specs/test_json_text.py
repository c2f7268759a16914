"""What is read is what Python's own reader reads; what would make trouble later is refused at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.specs.json_text import MOST_DIGITS, MOST_NESTED_JSON, MOST_SMALL_JSON, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**50), 10**50) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_what_python_writes_comes_back(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_a_number_has_at_most_so_many_digits():
    assert parse_json("9" * MOST_DIGITS) == 10**MOST_DIGITS - 1
    with pytest.raises(ValueError, match=f"a whole number has {MOST_DIGITS + 1} digits"):
        parse_json("[" + "9" * (MOST_DIGITS + 1) + "]")


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}")])
def test_nesting_ends_somewhere(opens, closes):
    assert parse_json(opens * MOST_NESTED_JSON + "1" + closes * MOST_NESTED_JSON)
    for deep in (MOST_NESTED_JSON + 1, 10_000):
        with pytest.raises(ValueError, match=f"nested more than {MOST_NESTED_JSON} deep"):
            parse_json(opens * deep + "1" + closes * deep)


def test_small_lists_take_no_memory_before_they_are_counted():
    """As many as a file of the course's has room for are read; text and numbers may be any."""
    assert parse_json("[" + "[]," * (MOST_SMALL_JSON - 1) + "0]")
    assert len(parse_json("[" + '"0", ' * 99_999 + "0]")) == 100_000
    for text in ("[" + "[]," * 20_000 + "0]", "[" + "{}," * 20_000 + "0]", "[" * 100_000):
        with pytest.raises(ValueError, match=r"[\d,]+ lists and objects in [\d,]+ letters, .* the 1\d,\d{3} read"):
            parse_json(text)


def test_nor_do_small_texts_and_names():
    names = "{" + ",".join(f'"{i:x}":0' for i in range(200_000)) + "}"
    texts = "[" + '"ab",' * 500_000 + "0]"
    for text, what in ((names, "200,000 names"), (texts, "500,000 texts")):
        with pytest.raises(ValueError, match=f"{what} in [\\d,]+ letters, which are more than the [\\d,]+ read"):
            parse_json(text)
    usual = "{" + ",".join(f'"tensor {i} of a model": "a file"' for i in range(200_000)) + "}"
    assert len(parse_json(usual)) == 200_000


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\udfff": 1}', r'[{"a": ["\ud83d"]}]'])
def test_half_a_character_is_refused_wherever_it_stands(text):
    with pytest.raises(ValueError, match="is half a character"):
        parse_json(text)
    assert parse_json(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"", "Expecting value"), (b"{", "Expecting"), (b"\xff", "decode"), (b"{'a': 1}", "Expecting")],
)
def test_what_is_no_json_is_a_value_error(content, line):
    with pytest.raises(ValueError, match=line):
        parse_json(content)
