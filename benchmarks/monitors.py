"""What it costs to be watched: a training step and a serving run, with a monitor beside them and without.

    python benchmarks/monitors.py [--threads 2] [--rounds 15] [--seconds 1.5] [--interval 0.1]

A model made up for it trains, and another one answers eight requests at a time. Rounds take turns in one run, first one
and then the other, and what counts is the median of the ratios of neighbours, by the clock and in CPU time; that of
rounds that are both unwatched says how far the machine lets one see. Below stands the CPU time that sampling took, as
its thread counts it, as a share of one core: that can be told on a machine that others use, too.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from llmhw_helpers.llm.corpora import Batches, write_corpus
from llmhw_helpers.llm.training import Plan, Trainer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.monitors import Monitor
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.architectures import Model

SPEC = Model("made up", 4, 192, 4, 4, 48, 576, 512, True, 512, 1e4, "made up")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a round, about")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds from one sample to the next")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"a sample every {arguments.interval:g} s, {arguments.rounds} rounds of {arguments.seconds:g} s in turns")
    print(f"{'':20}{'watched / not':>15}{'not / not':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for name, step in (("training", training(Path(folder))), ("serving", serving())):
            compare(name, step, arguments)


def training(folder):
    """A step of 8 sequences of 128 tokens."""
    tokens = np.random.default_rng(0).integers(0, SPEC.vocab_size, 100_000)
    torch.manual_seed(0)
    batches = Batches(write_corpus(folder / "text", [tokens], SPEC.vocab_size), 8, 128)
    trainer = Trainer(Transformer(SPEC), batches, Plan(n_steps=1_000_000, lr=1e-4))
    return lambda: trainer.run(1)


def serving():
    """A step of an engine that has eight requests to answer, and gets new ones."""
    torch.manual_seed(0)
    engine = Engine(Served(Transformer(SPEC)), 400)

    def step():
        if not engine.step():
            for i in range(8):
                engine.submit([i] * 64, 64)

    return step


def compare(name, step, arguments):
    """Print the ratios of rounds, by the clock and in CPU time, and what sampling took."""
    for _ in range(3):
        step()
    begin = time.perf_counter()
    for _ in range(5):
        step()
    n_steps = max(1, round(5 * arguments.seconds / (time.perf_counter() - begin)))
    watched, unwatched, cost, lasted, n_samples = [], [], 0.0, 0.0, 0
    for k in range(arguments.rounds):
        taken = {}
        for who in ("watched", "before", "after") if k % 2 else ("before", "after", "watched"):
            monitor = Monitor(arguments.interval) if who == "watched" else nullcontext()
            begin = np.array([time.perf_counter(), time.process_time()])
            with monitor:
                for _ in range(n_steps):
                    step()
            taken[who] = np.array([time.perf_counter(), time.process_time()]) - begin
            if who == "watched":
                cost, lasted = cost + monitor.cost_seconds, lasted + taken[who][0]
                n_samples += len(monitor.series()) + 1
        neighbour = taken["before"] if k % 2 else taken["after"]
        watched.append(taken["watched"] / neighbour)
        unwatched.append(taken["after"] / taken["before"])
    for kind, i in (("seconds", 0), ("CPU time", 1)):
        ratios = [statistics.median(each[i] for each in rounds) for rounds in (watched, unwatched)]
        print(f"{name:10}{kind:10}{ratios[0]:15.4f}{ratios[1]:12.4f}")
    print(f"{'':10}sampling took {cost / lasted:.2%} of a core, {1e6 * cost / n_samples:.0f} µs a sample")


if __name__ == "__main__":
    main()
