"""SmolLM2-135M decoded by the compiled step and by PyTorch, in turns: ms a step, and the share of the memory's roof.

    python benchmarks/compiled.py [--threads 2] [--rounds 5] [--batch 1 8] [--dtype float32 bfloat16 float16]

Both begin behind the same prompt of 128 tokens; medians of all steps. The roof is the time that the weights take at the
bandwidth measured here. llama.cpp stands beside them in ``benchmarks/inference.py``.
"""

import argparse
import statistics
import time

import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.weights import Served

STEPS, N_PROMPT = 16, 128


def bandwidth() -> float:
    """Bytes a second of a sum over 512 MiB, all threads; the best of five."""
    x, times = torch.ones(2**27), []
    for _ in range(5):
        start = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - start)
    return x.nbytes / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16", "float16"])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("format    texts  PyTorch ms  compiled ms  roof ms  share of the roof")
    for name in asked.dtype:
        model = load_model().to(getattr(torch, name))
        ways = [Served(model), Served(model, compiled=True)]
        for batch_size in asked.batch:
            times = [[], []]
            for _ in range(asked.rounds):
                for served, found in zip(ways, times, strict=True):
                    found += steps(served, batch_size)
            plain, compiled = (statistics.median(each) * 1e3 for each in times)
            roof = ways[0].nbytes / bandwidth() * 1e3
            print(f"{name:9}{batch_size:6}{plain:12.1f}{compiled:13.1f}{roof:9.1f}{roof / compiled:19.2f}", flush=True)


def steps(served: Served, batch_size: int) -> list[float]:
    """Seconds of each of `STEPS` steps, behind a prompt; one before them warms up."""
    cache = new_cache(served, batch_size, N_PROMPT + STEPS + 1)
    prefill(served, [list(range(100, 100 + N_PROMPT))] * batch_size, cache)
    tokens, times = torch.full((batch_size,), 300), []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        decode(served, tokens, cache)
        times.append(time.perf_counter() - start)
    return times[1:]


if __name__ == "__main__":
    main()
