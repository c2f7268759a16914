"""What it costs to be watched: the server's worker with nobody who counts, with its metrics, and with pages asked for.

    python benchmarks/metrics.py [--threads 2] [--rounds 7] [--tokens 32]

SmolLM2-135M in fp32, packed, eight answers at once. `counted` tells the metrics of every step, as the server does;
`a page a second` and `ten pages a second` ask for the page as well. All take turns in one run, and each round gives the
ratio to the same answers unwatched, which is asked to be at least 0.99 in the median. Beside it the processor time of
the counting and of a page, which hangs on no neighbour.
"""

import argparse
import statistics
import threading
import time
from contextlib import nullcontext

import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.server.metrics import ServingMetrics
from llmhw_helpers.server.worker import Worker
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served

PAGES_PER_SECOND = {"unwatched": None, "counted": 0, "a page a second": 1, "ten pages a second": 10}


def main():
    """Rounds of all ways to be watched, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    worker = Worker(Engine(Served(load_model(), packed=True), 256, tokenizer=load_tokenizer()))
    unwatched = worker.watch
    metrics = ServingMetrics(worker, "SmolLM2-135M")
    count, spent, n_steps = worker.watch, 0.0, 0

    def watch(jobs, began):
        nonlocal spent, n_steps
        begin = time.thread_time()
        count(jobs, began)
        spent += time.thread_time() - begin
        n_steps += began is not None

    speeds = {name: [] for name in PAGES_PER_SECOND}
    for k in range(arguments.rounds + 1):
        names = list(PAGES_PER_SECOND)
        for name in names[k % 4 :] + names[: k % 4]:
            often = PAGES_PER_SECOND[name]
            worker.watch = unwatched if often is None else watch
            with asking(metrics, often) if often else nullcontext():
                speed = tokens_per_second(worker, arguments.tokens, k)
            if k:  # the first round warms up
                speeds[name].append(speed)
    for name, found in speeds.items():
        ratio = statistics.median(one / other for one, other in zip(found, speeds["unwatched"], strict=True))
        print(f"{name:20} {statistics.median(found):7.1f} tokens/s, {ratio:.3f} of unwatched")
    pages = [timed(metrics.page) for _ in range(50)]
    step, page = spent / n_steps, statistics.median(pages)
    print(f"processor time: {1e6 * step:.0f} us to count a step of eight answers, {1e3 * page:.2f} ms for a page")
    worker.close()


class asking:
    """Somebody in a thread who asks for the page so often."""

    def __init__(self, metrics, per_second):
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(metrics, per_second))

    def _work(self, metrics, per_second):
        while not self._done.wait(1 / per_second):
            metrics.page()

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def tokens_per_second(worker, n_new, seed):
    """Of eight answers."""
    prompts = torch.randint(0, 40000, (8, 16), generator=torch.Generator().manual_seed(seed)).tolist()
    ended, n = threading.Event(), [0]

    def deliver(piece):
        n[0] += piece.finished is not None
        if n[0] == len(prompts):
            ended.set()

    begin = time.perf_counter()
    worker.submit(prompts, n_new, deliver)
    ended.wait()
    return len(prompts) * n_new / (time.perf_counter() - begin)


def timed(run):
    """Processor seconds of this thread in `run()`."""
    begin = time.thread_time()
    run()
    return time.thread_time() - begin


if __name__ == "__main__":
    main()
