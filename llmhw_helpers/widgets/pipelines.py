"""The pipeline explorer: ranks, micro-batches, chunks and a schedule, and who waits for whom."""

import matplotlib.pyplot as plt
from ipywidgets import Dropdown, IntSlider, VBox, interactive

from ..costs.pipelines import bubble, idle_share, simulate
from ..costs.schedules import SCHEDULES, in_flight, make_schedule
from ..plots.pipelines import plot_schedule

MOST_RANKS, MOST_MICRO_BATCHES = 8, 12
LONGEST = 3 * (MOST_MICRO_BATCHES + MOST_RANKS - 1)  # of all steps that the sliders can ask for, in forward passes


def explore_pipeline() -> VBox:
    """Controls over a picture; a backward pass takes twice as long as a forward pass, and sending nothing."""
    return interactive(
        show_pipeline,
        name=Dropdown(options=list(SCHEDULES), value="1F1B", description="schedule"),
        pp_size=IntSlider(4, 1, MOST_RANKS, description="ranks"),
        n_micro_batches=IntSlider(8, 1, MOST_MICRO_BATCHES, description="micro-batches"),
        n_chunks=IntSlider(1, 1, 4, description="chunks"),
    )


def show_pipeline(name: str, pp_size: int, n_micro_batches: int, n_chunks: int) -> None:
    """Print and draw one setting of the explorer. A rank has the same layers, in one chunk or in several."""
    try:
        schedule = make_schedule(name, pp_size, n_micro_batches, n_chunks)
    except ValueError as error:
        print(error)
        return
    events = simulate(schedule, forward_s=1 / n_chunks, backward_s=2 / n_chunks)
    held = [n / n_chunks for n in in_flight(schedule)]
    print(
        f"a rank waits {idle_share(events):.0%} of the step (formula: {bubble(pp_size, n_micro_batches, n_chunks):.0%})"
    )
    print(f"micro-batches held at once, by rank: {', '.join(f'{n:g}' for n in held)}")
    plot_schedule(events, room=(MOST_RANKS, LONGEST))
    plt.show()
