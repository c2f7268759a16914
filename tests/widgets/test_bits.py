"""The bit viewer: text to bits, bits to text, and every format and any text draws or says why not."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.specs.dtypes import DTYPES, dtype
from llmhw_helpers.widgets import bits as room


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def parts(viewer):
    (choice, text), buttons, out = viewer.children[0].children, viewer.children[1], viewer.children[2]
    return choice, text, buttons, out


def shown(buttons):
    return "".join(button.description for button in buttons.children)


def test_a_number_becomes_bits_and_a_switched_bit_becomes_a_number():
    choice, text, buttons, _ = parts(room.explore_bits("1.5", "fp16"))
    assert shown(buttons) == "0011111000000000"
    buttons.children[0].click()
    assert (text.value, shown(buttons)) == ("-1.5", "1011111000000000")
    text.value = "2049"  # a tie, to even
    assert shown(buttons) == "0110100000000000"
    choice.value = "int8"
    assert shown(buttons) == "01111111"


def test_the_bits_stay_as_they_were_switched_also_where_many_codes_are_nan():
    _, text, buttons, _ = parts(room.explore_bits("inf", "fp16"))
    buttons.children[-1].click()
    assert (text.value, shown(buttons)) == ("nan", "0111110000000001")
    buttons.children[-1].click()
    assert (text.value, shown(buttons)) == ("inf", "0111110000000000")


def test_what_the_text_said_survives_switching_formats(capsys):
    choice, text, buttons, _ = parts(room.explore_bits("0.1", "fp4_e2m1"))
    assert shown(buttons) == "0000"
    choice.value = "fp64"
    assert text.value == "0.1"
    assert shown(buttons) == f"{0x3FB999999999999A:064b}"


def test_what_is_no_number_is_said_so(capsys):
    _, text, _, _ = parts(room.explore_bits())
    capsys.readouterr()
    text.value = "zero"
    assert "'zero' is no number: write one as 0.1, -3e5, inf or nan" in capsys.readouterr().out
    choice, text, _, _ = parts(room.explore_bits("nan", "bf16"))
    capsys.readouterr()
    choice.value = "int4"
    assert "int4 has no code for NaN" in capsys.readouterr().out


@pytest.mark.parametrize("name", DTYPES)
def test_every_format_explains_any_code(name):
    form = dtype(name)
    for code in {0, 1, 2**form.mantissa_bits, 2 ** (form.bits - 1), 2 ** (form.bits - 1) - 1, 2**form.bits - 1}:
        said = room.explain(form, code)
        value = room.value_of(form, code)
        if value == value and abs(value) != float("inf"):
            left, right = said.removesuffix(", a subnormal number").split(" = ")
            assert float(right) == value
            assert eval(left.replace("x", "*").replace("^(", "**(").replace("2**", "2.0**")) == value, said
        assert room.code_of(form, repr(value)) == code or value != value


def test_the_lines():
    assert room.explain(dtype("fp16"), 0x7C00) == "the top exponent, kept for inf"
    assert room.explain(dtype("fp8_e4m3"), 0x7F) == "the top exponent and mantissa, kept for nan"
    assert room.explain(dtype("fp16"), 1) == "(0 + 1/1024) x 2^(1 - 15) = 5.960464477539063e-08, a subnormal number"
    assert room.explain(dtype("int4"), 0b1101) == "5 - 8 = -3"
