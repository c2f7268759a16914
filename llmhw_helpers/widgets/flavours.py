"""The flavour chooser's controls: a machine, a model, a task, memory and quality, and what to take."""

import matplotlib.pyplot as plt
from ipywidgets import Dropdown, FloatSlider, VBox, interactive

from ..costs.devices import TASKS, Device
from ..costs.flavours import choose, one_each
from ..plots.flavours import plot_options
from ..specs.accelerators import ACCELERATORS
from ..specs.figures import UnknownFigure
from ..specs.flavours import IMPLEMENTATIONS
from ..specs.models import model

MODELS = ("SmolLM2-135M", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-2-13B", "Llama-3.1-70B")
ANY = "any"
MOST = {"memory": 140, "loss": 30}  # what the sliders go up to: GB, and % of quality


def explore_flavours(*more: Device) -> VBox:
    """Controls over the reasons and a picture: any GPU, or the machines `more`, which come first."""
    devices = {each.roof.name: each for each in (*more, *map(Device.of, ACCELERATORS.values()))}
    return interactive(
        lambda machine, what, task, memory, loss, program: show_choice(
            devices[machine], what, task, memory, loss, program
        ),
        machine=Dropdown(options=list(devices), description="machine"),
        what=Dropdown(options=MODELS, value="Llama-3.1-8B", description="model"),
        task=Dropdown(options=list(TASKS), description="task"),
        memory=FloatSlider(15, min=1, max=MOST["memory"], step=1, description="GB left", continuous_update=False),
        loss=FloatSlider(3, min=0, max=MOST["loss"], step=0.5, description="% to lose", continuous_update=False),
        program=Dropdown(options=[ANY, *IMPLEMENTATIONS], description="program"),
    )


def show_choice(device: Device, what: str, task: str, gigabytes: float, percent: float, program: str = ANY) -> None:
    """Print the reasons of one setting and draw its options; the axis is the same for all memory and losses."""
    implementation = None if program == ANY else program
    try:
        choice = choose(device, model(what), task, gigabytes * 1e9, percent / 100, implementation)
        roomy = choose(device, model(what), task, MOST["memory"] * 1e9, MOST["loss"] / 100, implementation)
    except UnknownFigure as error:
        print(error)
        return
    print("\n".join(choice.reasons))
    plot_options(one_each(choice.options), choice.best, longest=max(each.tokens_per_s for each in roomy.options))
    plt.show()
