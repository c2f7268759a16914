"""The roofline explorer: pick a machine, a number format and a product, and see which side binds."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
from ipywidgets import Dropdown, SelectionSlider, VBox, interactive

from ..costs.flops import product
from ..costs.roofline import Roof
from ..plots.roofline import Point, plot_roofline
from ..specs.accelerators import ACCELERATORS, UnsupportedDtype
from ..specs.figures import UnknownFigure, si
from ..specs.models import model

LAYERS = ("SmolLM2-135M", "Llama-3.1-8B", "Llama-3.1-70B")
ROWS = [2**i for i in range(14)]
FORMATS = ("fp32", "tf32", "bf16", "fp16", "fp8_e4m3", "int8", "int4")
INTENSITIES = (0.1, 20_000)  # the product of the most rows with the largest matrix, in int4, has 14,000 FLOP/B


def explore_roofline(*more: Roof) -> VBox:
    """Controls over a picture: a model's ffn_gate product on any GPU, or on the machines `more`."""
    roofs = {roof.name: roof for roof in (*more, *map(Roof.of, ACCELERATORS.values()))}
    rates = rates_of(roofs.values())
    return interactive(
        lambda machine, dtype, layer, rows: show_product(roofs[machine], dtype, layer, rows, rates),
        machine=Dropdown(options=list(roofs), description="machine"),
        dtype=Dropdown(options=FORMATS, value="fp32", description="format"),
        layer=Dropdown(options=LAYERS, description="model"),
        rows=SelectionSlider(options=ROWS, value=1, description="rows"),
    )


def rates_of(roofs: Iterable[Roof]) -> tuple[float, float]:
    """FLOP/s, from the slowest of the machines to the fastest, with some room: axes that hold each of them."""
    rates = [
        roof.attainable(dtype, intensity)
        for roof in roofs
        for dtype in set(FORMATS) & set(roof.flops_per_s)
        for intensity in INTENSITIES
    ]
    return min(rates) / 2, max(rates) * 2


def show_product(roof: Roof, dtype: str, layer: str, rows: int, rates: tuple[float, float] | None = None) -> None:
    """Draw and print one setting of the explorer; `rates` are the ends of its axis of FLOP/s."""
    try:
        shape = model(layer)
        work = product(rows, shape.d_model, shape.d_ff, dtype)
        floor = roof.floor(work, dtype)
    except (UnsupportedDtype, UnknownFigure) as error:
        print(error)
        return
    rate = roof.attainable(dtype, work.intensity)
    print(f"{rows} x {shape.d_model} x {shape.d_ff}: {si(work.flops, 'FLOP')}, {si(work.bytes, 'B')}, ", end="")
    print(f"{work.intensity:.3g} FLOP/B. At least {si(floor.seconds, 's')}: {floor.bound} binds.")
    point = {f"{layer}, ffn_gate": [Point(work.intensity, rate)]}
    plot_roofline([(roof, dtype)], point, intensities=INTENSITIES, rates=rates)
    plt.show()
