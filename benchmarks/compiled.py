"""SmolLM2-135M decoded by the compiled step and by PyTorch, in turns: ms a step, and the share of the memory's roof.

    python benchmarks/compiled.py [--threads 2] [--rounds 5] [--batch 1 8] [--format fp32 bf16 fp16 int8 int4 ...]

All begin behind the same prompt of 128 tokens; medians of all steps, a run of 16 of one way, then of the next. The roof
is the time that the weights that a step reads take at the bandwidth measured here. Int8 has a scale a row, int4 one for
32 weights; int8's activations are rounded to 16 bits, int4's to 8, and in int8-wide and int4-wide they are as they are.
Bf16's are rounded to bf16 where the processor multiplies that, as PyTorch's and llama.cpp's are. "file" are the model
file's own blocks, beside PyTorch with what they stand for in fp32. llama.cpp, where it is installed, has a cache of
32-bit numbers as we do in fp32, Q8_0 for int8, Q4_0 for int4, and reads the same file.
"""

import argparse
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from llama_peer import LlamaCpp, write_gguf

from llmhw_helpers.llm.checkpoints import find_model, load_model
from llmhw_helpers.llm.quantization import Scheme, quantize_model
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.mapped import ServedFile
from llmhw_helpers.serving.quantized import serve
from llmhw_helpers.serving.weights import Served

STEPS, N_PROMPT = 16, 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEMES = {"int8": Scheme(8, "row"), "int8-wide": Scheme(8, "row"), "int4": Scheme(4, 32), "int4-wide": Scheme(4, 32)}
ROUNDED = {"int8": 16, "int4": 8}  # bits of activations
GGUF = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}


def bandwidth() -> float:
    """Bytes a second of a sum over 512 MiB, all threads; the best of five."""
    x, times = torch.ones(2**27), []
    for _ in range(5):
        start = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - start)
    return x.nbytes / min(times)


def both(form):
    """PyTorch's way, the compiled one, and bytes of the weights that a step reads."""
    if form in DTYPES:
        model = load_model().to(DTYPES[form])
        plain = Served(model, compiled=False)
        return plain, Served(model, compiled=True), plain.nbytes
    if form == "file":
        served = ServedFile()
        return Served(load_model(), compiled=False), served, served.nbytes
    model = quantize_model(load_model(), SCHEMES[form])
    bits = sum(layer.quantized.n_bits for layer in model.modules() if hasattr(layer, "quantized"))
    return serve(model, compiled=False), serve(model, ROUNDED.get(form), compiled=True), bits / 8


class Ours:
    """A model behind a prompt in every text."""

    def __init__(self, served, batch_size):
        self.served, self.cache = served, new_cache(served, batch_size, N_PROMPT + STEPS + 1)
        self.tokens = torch.full((batch_size,), 300)
        prefill(served, prompts(batch_size), self.cache)

    def step(self, i):
        """Read token `i` after the prompt."""
        self.cache.lengths = [N_PROMPT + i] * len(self.tokens)
        decode(self.served, self.tokens, self.cache)


class Theirs:
    """The same in llama.cpp."""

    def __init__(self, path, threads, batch_size):
        self.llama, self.batch_size = LlamaCpp(path, threads, batch_size, N_PROMPT + STEPS + 1), batch_size
        self.llama.read([(b, 0, prompt) for b, prompt in enumerate(prompts(batch_size))])

    def step(self, i):
        """Read token `i` after the prompt."""
        if i == 0:
            memory = self.llama.lib.llama_get_memory(self.llama.context)
            for b in range(self.batch_size):
                self.llama.lib.llama_memory_seq_rm(memory, b, N_PROMPT, -1)
        self.llama.read([(b, N_PROMPT + i, [300]) for b in range(self.batch_size)])


def prompts(batch_size):
    """As many texts."""
    return [list(range(100, 100 + N_PROMPT))] * batch_size


def measure(ways, rounds):
    """Milliseconds a step of each, the median; by turns each takes all steps.

    The first two do not count: PyTorch's and llama.cpp's threads go on looking for work for a while after their last
    step, and take a core from whoever comes next.
    """
    times = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, times, strict=True):
            for i in range(STEPS):
                start = time.perf_counter()
                way.step(i)
                if i >= 2:
                    found.append(time.perf_counter() - start)
    return [statistics.median(found) * 1e3 for found in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    forms = [*DTYPES, *SCHEMES, "file"]
    parser.add_argument("--format", nargs="+", default=forms, choices=forms)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    peer = find_spec("llama_cpp") is not None
    if not peer:
        print("llama.cpp is not installed: pip install llama-cpp-python (it compiles for some ten minutes)")
    print("format     texts  PyTorch ms  compiled ms  llama.cpp ms  roof ms  share of the roof  PyTorch/compiled")
    with tempfile.TemporaryDirectory() as folder:
        for form in asked.format:
            plain, compiled, n_bytes = both(form)
            path = find_model() if form == "file" and peer else Path(folder) / f"{form}.gguf"
            if peer and form in GGUF:
                write_gguf(find_model(), path, GGUF[form])
            for batch_size in asked.batch:
                ways = [Ours(plain, batch_size), Ours(compiled, batch_size)]
                if path.exists():
                    ways.append(Theirs(path, asked.threads, batch_size))
                times = measure(ways, asked.rounds)
                theirs, roof = f"{times[2]:14.1f}" if len(times) > 2 else f"{'':14}", n_bytes / bandwidth() * 1e3
                line = f"{form:9}{batch_size:7}{times[0]:12.1f}{times[1]:13.1f}{theirs}{roof:9.1f}"
                print(f"{line}{roof / times[1]:19.2f}{times[0] / times[1]:18.2f}", flush=True)


if __name__ == "__main__":
    main()
