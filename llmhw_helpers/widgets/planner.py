"""The planner's controls: a model, a task and a place, with the wishes that change the answer most."""

import matplotlib.pyplot as plt
from ipywidgets import Dropdown, IntSlider, SelectionSlider, VBox, interactive

from ..costs.places import offers
from ..costs.planner import answer
from ..costs.requests import FIELDS, TASKS
from ..plots.plans import plot_memory
from ..specs.accelerators import ACCELERATORS
from ..specs.clusters import CLUSTERS
from ..specs.models import MODELS

SHOWN = 8  # plans in a picture
LENGTHS = [2**i for i in range(4, 18)]
USERS = [2**i for i in range(11)]


def explore_plans() -> VBox:
    """Controls over the planner's reasons and the memory of its best plans."""
    return interactive(
        lambda **controls: show_plans(controls),
        model=Dropdown(options=list(MODELS), value="Llama-3.1-70B", description="model"),
        task=Dropdown(options=TASKS, description="task"),
        where=Dropdown(options=[*CLUSTERS, *ACCELERATORS], description="where"),
        n_gpus=IntSlider(0, min=0, max=64, description="GPUs, 0: all", continuous_update=False),
        prompt=SelectionSlider(options=LENGTHS, value=1024, description="prompt", continuous_update=False),
        answer=SelectionSlider(options=LENGTHS, value=256, description="answer", continuous_update=False),
        users=SelectionSlider(options=USERS, value=8, description="users", continuous_update=False),
    )


def show_plans(controls: dict) -> None:
    """Print the answer to one setting, and draw the memory of its best plans."""
    reply = answer({name: wish for name, wish in controls.items() if wish and _belongs(name, controls["task"])})
    if not reply["ok"]:
        print(reply["error"], f"Nearest: {reply['nearest']}" if reply["nearest"] else "", sep="\n")
        return
    print(reply["headline"], *reply["reasons"], sep="\n")
    plot_memory(reply["plans"][:SHOWN], end=1.1 * largest(controls["where"]))
    plt.show()


def largest(where: str) -> float:
    """Bytes of the largest card there: an axis that ends a little after it holds every plan.

    >>> largest("Alvis")
    80000000000.0
    """
    return max(offer.card.memory_bytes.value or 0 for offer in offers(where))


def _belongs(name: str, task: str) -> bool:
    """Whether a wish means something for a task."""
    return name not in FIELDS or task in FIELDS[name][3]
