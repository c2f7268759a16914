"""The bit viewer: type a number and see its bits in any format, or switch a bit and see the number."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from ipywidgets import Button, Dropdown, HBox, Layout, Output, Text, VBox

from ..llm.number_formats import decode, encode
from ..plots.number_formats import plot_bits
from ..specs.dtypes import DTYPES, Dtype, dtype


def explore_bits(value: str = "0.1", form: str = "fp16") -> VBox:
    """Controls over a picture: a format, a number as text, and a button for each bit."""
    choice = Dropdown(options=list(DTYPES), value=form, description="format")
    text = Text(value=value, description="number", continuous_update=False)
    buttons, out = HBox(layout=Layout(flex_flow="row wrap")), Output()
    shown = {"code": 0}

    def show(code: int) -> None:
        chosen, shown["code"] = dtype(choice.value), code
        buttons.children = [_button(chosen, code, place, flip) for place in reversed(range(chosen.bits))]
        out.clear_output(wait=True)
        with out:
            show_code(chosen, code)

    def flip(place: int) -> None:
        code = shown["code"] ^ (1 << place)
        show(code)
        text.unobserve(read, "value")  # the number follows the bits here, not the other way round
        text.value = repr(value_of(dtype(choice.value), code))
        text.observe(read, "value")

    def read(_: object = None) -> None:
        try:
            show(code_of(dtype(choice.value), text.value))
        except ValueError as error:
            out.clear_output(wait=True)
            with out:
                print(error)

    choice.observe(read, "value")
    text.observe(read, "value")
    read()
    return VBox([HBox([choice, text]), buttons, out])


def _button(form: Dtype, code: int, place: int, flip: Callable[[int], None]) -> Button:
    button = Button(description=str(code >> place & 1), tooltip=f"bit {place}", layout=Layout(width="2em", padding="0"))
    button.on_click(lambda _: flip(place))
    return button


def code_of(form: Dtype, text: str) -> int:
    """The code of the number that is written in `text`.

    Raises:
        ValueError: it is no number, or none that the format has a code for.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number: write one as 0.1, -3e5, inf or nan") from None
    return int(encode(torch.tensor([value], dtype=torch.float64), form)[0]) % 2**form.bits


def value_of(form: Dtype, code: int) -> float:
    """The number that `code` stands for."""
    signed = code - 2**64 if code >= 2**63 else code  # torch has no unsigned 64 bits to count with
    return float(decode(torch.tensor([signed]), form)[0])


def show_code(form: Dtype, code: int) -> None:
    """Draw the bits of `code` and print what they say."""
    print(explain(form, code))
    plot_bits({form.name: form.split(code)})
    plt.show()


def explain(form: Dtype, code: int) -> str:
    """How the value follows from the fields, in a line.

    >>> explain(dtype("fp8_e4m3"), 0b0_1000_100)
    '(1 + 4/8) x 2^(8 - 7) = 3.0'
    """
    value, fields = value_of(form, code), form.split(code)
    minus = "-" if fields["sign"] == "1" else ""
    if not form.is_float:
        return f"{int(fields['number'], 2)}{f' - {2**form.mantissa_bits}' if minus else ''} = {value:.0f}"
    exponent, mantissa = int(fields["exponent"], 2), int(fields["mantissa"], 2)
    if value != value or abs(value) == float("inf"):
        return f"the top exponent{' and mantissa' * (form.special == 'fn')}, kept for {value}"
    lead = f"({min(exponent, 1)} + {mantissa}/{2**form.mantissa_bits})"
    kind = "" if exponent or not mantissa else ", a subnormal number"
    return f"{minus}{lead} x 2^({max(exponent, 1)} - {form.bias}) = {value!r}{kind}"
