"""The engine's KV cache on storage: what a folder costs while nothing is spilled, what spilling costs, what it saves.

    python benchmarks/kv_folder.py [--threads 2] [--rounds 7] [--folder DIR] [--only CASE ...]

SmolLM2-135M in fp32, packed. `idle`: the same requests with a folder and without, and nothing has to leave the cache:
the ratio of their steps is asked to be at least 0.99. `spill`: every prompt drives the blocks of the one before out of
the cache: what the longest step and all of them take more. `reload`: the first token after a prefix that is computed,
and after one that is read back, from the page cache and from storages that are slowed down to rates around the
crossover, which `costs.reload` predicts from the prefill that was just measured. All take turns in one run.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.reload import crossover_rate
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.fingerprints import fingerprint
from llmhw_helpers.serving.kv_folder import KVFolder
from llmhw_helpers.serving.weights import Served

CASES = ("idle", "spill", "reload")
RATES = (0.25, 0.5, 0.8, 1.25, 2, 4)  # of the predicted crossover


def main():
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where to make the folders; else where temporary files go")
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    served = Served(load_model(), packed=True)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, served.spec.vocab_size, (8, 1024), generator=generator).tolist()
    seconds = min(timed(lambda: fingerprint(served)) for _ in range(3))
    print(f"fingerprint of {served.nbytes / 1e6:.0f} MB of weights: {1e3 * seconds:.0f} ms, once")
    for case in arguments.only:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
            {"idle": idle, "spill": spill, "reload": reload}[case](served, prompts, arguments.rounds, Path(made))


def timed(run):
    """Seconds of `run()`."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def steps(engine):
    """Seconds of each step until nothing is left to do."""
    taken, left = [], True
    while left:
        begin = time.perf_counter()
        left = engine.step()
        taken.append(time.perf_counter() - begin)
    return taken[:-1]


def idle(served, prompts, rounds, path):
    """Prefill and decode of eight texts, in two engines whose steps take turns."""
    n_blocks = 8 * 6 * (rounds + 1)
    engines = {"without": Engine(served, n_blocks), "with": Engine(served, n_blocks, kv_folder=KVFolder(path))}
    taken = {name: [] for name in engines}
    for k in range(rounds + 1):
        for engine in engines.values():
            for i, prompt in enumerate(prompts):
                engine.submit([k, i, *prompt[:62]], 24)
        order = list(engines) if k % 2 else list(reversed(engines))
        now = {name: [] for name in engines}
        while any(engine.scheduler.waiting or engine.scheduler.running for engine in engines.values()):
            for name in order:
                now[name].append(timed(engines[name].step))
        for name in engines if k else ():
            taken[name] += now[name]
    assert engines["with"].statistics.n_spilled == 0
    ratio = statistics.median(a / b for a, b in zip(taken["without"], taken["with"], strict=True))
    both = " and ".join(f"{1e3 * statistics.median(each):.2f} ms {name}" for name, each in taken.items())
    print(f"nothing is spilled: a step takes {both} a folder: {ratio:.3f} of the speed")


def spill(served, prompts, rounds, path):
    """Prompts of 512 tokens, each with room for itself alone."""
    longest, all_of_them, n_spilled = {"without": [], "with": []}, {"without": [], "with": []}, 0
    for k in range(rounds):
        engines = {"without": Engine(served, 40), "with": Engine(served, 40, kv_folder=KVFolder(path / str(k)))}
        for prompt in prompts[:4]:
            for name in engines if k % 2 else reversed(engines):
                engines[name].submit(prompt[:512], 16)
                now = steps(engines[name])
                longest[name].append(max(now))
                all_of_them[name].append(sum(now))
        n_spilled += engines["with"].statistics.n_spilled
        engines["with"].spill.folder.flush()
    for what, taken in (("longest step", longest), ("whole request", all_of_them)):
        apart = statistics.median(a - b for a, b in zip(taken["with"], taken["without"], strict=True))
        usual = statistics.median(taken["without"])
        print(f"spilling {n_spilled} blocks: {what} {1e3 * usual:.1f} ms, {1e3 * apart:+.1f} ms with the folder")


def reload(served, prompts, rounds, path):
    """The first token after 512 tokens, of which 496 can be read back."""
    prompt, n_back = prompts[0][:512], 496

    def first_token(**how):
        engine = Engine(served, 40, max_step_tokens=512, **how)
        request = engine.submit(prompt, 1)
        steps(engine)
        assert engine.statistics.n_reloaded == (n_back // 16 if how else 0)
        return request.time_to_first_token

    before = Engine(served, 40, max_step_tokens=512, kv_folder=KVFolder(path))
    before.generate([prompt], 1)
    before.flush()
    computed, read = [], []
    for _ in range(rounds + 1):
        computed.append(first_token())
        read.append(first_token(kv_folder=KVFolder(path)))
    computed, read = (statistics.median(each[1:]) for each in (computed, read))
    short = statistics.median(rest(served, prompt[n_back:]) for _ in range(rounds))  # has to be computed in any case
    predicted = crossover_rate(served.spec, n_back / (computed - short), "fp32")
    n_bytes = kv_bytes(served.spec, n_back, "fp32")
    print(f"first token after 512: {1e3 * computed:.0f} ms computed, {1e3 * read:.0f} ms read from the page cache,")
    print(f"  {computed / read:.1f} times sooner; {n_bytes / 1e6:.1f} MB at {n_bytes / (read - short) / 1e6:.0f} MB/s")
    points = []
    for share in RATES:
        slow = first_token(kv_folder=KVFolder(path, bytes_per_s=share * predicted))
        points.append((share * predicted, slow - computed))
        print(f"  at {share * predicted / 1e6:6.1f} MB/s: {1e3 * slow:7.0f} ms")
    measured = crossing(points)
    print(f"crossover: {predicted / 1e6:.1f} MB/s predicted, {measured / 1e6:.1f} measured")


def rest(served, prompt):
    """Seconds to read what cannot be found."""
    engine = Engine(served, 40)
    request = engine.submit(prompt, 1)
    steps(engine)
    return request.time_to_first_token


def crossing(points):
    """Where what is saved changes its sign, straight between two rates."""
    for (low, worse), (high, better) in pairwise(points):
        if worse > 0 >= better:
            return low + (high - low) * worse / (worse - better)
    return float("nan")


if __name__ == "__main__":
    main()
