"""SmolLM2-135M served: ours, Hugging Face transformers and (if it is installed) llama.cpp, on the same weights.

    python benchmarks/inference.py [--threads 2] [--dtype float32] [--rounds 5] [--only CASE ...] [--peers NAME ...]

Prefill of 512 tokens; decode of 1 and of 8 texts, contiguous and paged; 16 requests of mixed length in 8 places; a
shared prefix. All take turns in one run, and so does the machine's own roofline: what counts are the ratios. First all
must agree on the logits. transformers uses its own cache, llama.cpp (llama-cpp-python) a GGUF file made of the same
weights, with keys and values in fp32. Ours decodes with the compiled step; with --pytorch PyTorch does, weights packed.
"""

import argparse
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # llama.cpp brings threads of its own: none may spin beside the others

import torch
from llama_peer import LlamaCpp, write_gguf
from transformers import AutoModelForCausalLM

from llmhw_helpers.costs.inference import decode_work, prefill_work
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.llm.checkpoints import find_model, load_model
from llmhw_helpers.measure.probes import product_rate
from llmhw_helpers.serving.decoding import decode, decoder_of, new_cache, prefill
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.paged_cache import Chunk, PagedCache
from llmhw_helpers.serving.weights import Served

STEPS = 8  # decoded tokens of a round
N_PROMPT = 128  # tokens before them
CASES = ("prefill", "decode", "mixed", "prefix")
PEERS = ("transformers", "llama.cpp")
NAMES = {"float32": ("fp32", "F32"), "bfloat16": ("bf16", "BF16")}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=tuple(NAMES), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=PEERS, help="besides ours")
    parser.add_argument("--pytorch", action="store_true", help="ours decoded by PyTorch, from packed weights")
    return parser.parse_args()


class Contiguous:
    """Ours, from `KVCache`."""

    def __init__(self, served):
        self.served = served

    def read(self, prompts):
        """Prompts of one length; the logits after each."""
        self.cache = new_cache(self.served, len(prompts), len(prompts[0]) + STEPS + 1)
        return prefill(self.served, prompts, self.cache)

    def write(self, tokens):
        """One token more in each; the logits after it."""
        return decode(self.served, tokens, self.cache)


class Paged:
    """Ours, from `PagedCache`, the blocks of each text scattered."""

    def __init__(self, served):
        self.served = served

    def read(self, prompts):
        """Prompts of one length; the logits after each."""
        n_each = -(-(len(prompts[0]) + STEPS + 1) // 16)
        dtype = self.served.model.token_embd.weight.dtype
        self.cache = PagedCache(self.served.spec, n_each * len(prompts), 16, dtype)
        self.tables = torch.randperm(n_each * len(prompts)).view(len(prompts), -1).tolist()
        self.n_cached = 0
        return self._pass(torch.tensor(prompts))

    def write(self, tokens):
        """One token more in each; the logits after it."""
        decoder = decoder_of(self.served)
        if decoder is None:
            return self._pass(tokens[:, None])
        self.n_cached += 1
        return decoder.logits(tokens.tolist(), [self.n_cached - 1] * len(tokens), self.tables, self.cache)

    def _pass(self, tokens):
        with torch.inference_mode():
            window = self.cache.window([Chunk(table, self.n_cached, tokens.shape[1]) for table in self.tables])
            stream = self.served.forward(tokens.reshape(1, -1), window.positions, window.attend)
            self.n_cached += tokens.shape[1]
            return self.served.head(stream[0, window.last])


class Transformers:
    """Hugging Face transformers with its DynamicCache."""

    def __init__(self, path, dtype):
        self.model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()

    def read(self, prompts):
        """Prompts of one length; the logits after each."""
        with torch.inference_mode():
            out = self.model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1]

    def write(self, tokens):
        """One token more in each; the logits after it."""
        with torch.inference_mode():
            return self.model(tokens[:, None], past_key_values=self.cache, use_cache=True).logits[:, -1]

    def serve(self, prompts, counts, places):
        """Static batches, as `generate` makes them: padded on the left, and each as long as its longest answer."""
        answers = []
        for start in range(0, len(prompts), places):
            batch = prompts[start : start + places]
            width = max(map(len, batch))
            tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            n = max(counts[start : start + places])
            settings = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
            out = self.model.generate(tokens, attention_mask=mask, **settings)[:, width:].tolist()
            answers += [row[:count] for row, count in zip(out, counts[start : start + places], strict=True)]
        return answers


class Llama:
    """llama.cpp; a file for each number of places."""

    def __init__(self, path, threads):
        self.path, self.threads, self.sessions = path, threads, {}

    def session(self, places, context):
        """llama.cpp with so many places, each for `context` tokens."""
        key = places, context
        if key not in self.sessions:
            self.sessions[key] = LlamaCpp(self.path, self.threads, places, context)
        return self.sessions[key]

    def read(self, prompts):
        """Prompts of one length; the logits after each."""
        self.now, self.length = self.session(len(prompts), 544 if len(prompts) == 1 else 256), len(prompts[0])
        self.now.forget()
        return torch.tensor(self.now.read([(i, 0, prompt) for i, prompt in enumerate(prompts)]))

    def write(self, tokens):
        """One token more in each; the logits after it."""
        logits = self.now.read([(i, self.length, [token]) for i, token in enumerate(tokens.tolist())])
        self.length += 1
        return torch.tensor(logits)


def timed(run):
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def in_turns(contestants, rounds, floor=None):
    """Seconds of each contestant (functions that give their own), in turns; every other round in the other order."""
    taken = {name: [] for name in contestants} | ({"floor": []} if floor else {})
    for k in range(rounds + 1):
        order = list(contestants) if k % 2 else list(reversed(contestants))
        now = {name: contestants[name]() for name in order} | ({"floor": floor()} if floor else {})
        for name, value in now.items() if k else ():
            taken[name].append(value)
    return taken


def report(case, taken, unit=1e3):
    """A line for each contestant: its median, and the medians of its ratios to the first, round by round."""
    first = next(iter(taken))
    for name, values in taken.items():
        ratio = statistics.median(a / b for a, b in zip(values, taken[first], strict=True))
        print(f"{case:18}{name:22}{unit * statistics.median(values):10.1f} ms{ratio:8.2f} of {first}", flush=True)


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    dtype, path = getattr(torch, arguments.dtype), find_model()
    name, gguf_name = NAMES[arguments.dtype]
    served = Served(load_model(dtype=dtype), packed=arguments.pytorch)
    everyone = {"ours": Contiguous(served), "ours, paged": Paged(served)}
    if "transformers" in arguments.peers:
        everyone["transformers"] = Transformers(path, dtype)
    folder = tempfile.TemporaryDirectory()
    if "llama.cpp" in arguments.peers and find_spec("llama_cpp") is None:
        print("llama-cpp-python is not installed: without llama.cpp")
    elif "llama.cpp" in arguments.peers:
        copy = Path(folder.name) / "weights.gguf"
        write_gguf(path, copy, gguf_name)
        everyone["llama.cpp"] = Llama(copy, arguments.threads)
    torch.manual_seed(0)
    prompts = torch.randint(0, served.spec.vocab_size, (16, 512)).tolist()
    stream = torch.ones(2**27)

    def roof(work):
        """The least time of `work` by what the machine does at this moment."""
        reads = max(stream.nbytes / timed(stream.sum)[0] for _ in range(3))
        flops, products = product_rate(name, torch.device("cpu"), rounds=5)
        return Roof("now", {name: flops / products.best}, reads).floor(work, name).seconds

    for n in (1, 8):
        logits = {}
        for who, contestant in everyone.items():
            first = contestant.read([prompt[:64] for prompt in prompts[:n]])
            logits[who] = torch.cat([first, contestant.write(torch.tensor([7] * n))]).float()
        reference = logits["transformers" if "transformers" in logits else "ours"]
        for who, found in logits.items():
            apart = ((found - reference).norm() / reference.norm()).item()
            assert apart < (2e-3 if dtype == torch.float32 else 0.1), (who, apart)

    print(
        f"{arguments.dtype}, {arguments.threads} threads, {arguments.rounds} rounds in turns, torch {torch.__version__}"
    )

    def prefill_seconds(contestant):
        return timed(lambda: contestant.read(prompts[:1]))[0]

    def decode_seconds(contestant, n):
        tokens = contestant.read([prompt[:N_PROMPT] for prompt in prompts[:n]]).argmax(-1)
        return timed(lambda: [contestant.write(tokens) for _ in range(STEPS)])[0] / STEPS

    if "prefill" in arguments.only:
        runs = {who: lambda one=one: prefill_seconds(one) for who, one in everyone.items()}
        report("prefill 512", in_turns(runs, arguments.rounds, lambda: roof(prefill_work(served.spec, 1, 512, name))))
    for n in (1, 8) if "decode" in arguments.only else ():
        runs = {who: lambda one=one, n=n: decode_seconds(one, n) for who, one in everyone.items()}
        work = decode_work(served.spec, n, N_PROMPT + STEPS // 2, name)
        report(f"decode, batch {n}", in_turns(runs, arguments.rounds, lambda work=work: roof(work)))
    if "mixed" in arguments.only:
        mixed(everyone, served, prompts, max(1, arguments.rounds // 2))
    if "prefix" in arguments.only:
        prefix(served, prompts, arguments.rounds)


def mixed(everyone, served, prompts, rounds):
    """16 requests of mixed length: one after the other, in static batches of 8, and continuously in 8 places."""
    counts = [16, 96, 8, 24, 12, 48, 8, 16, 96, 8, 32, 12, 24, 8, 64, 16]
    asked = [prompt[: 16 + 8 * (i % 7)] for i, prompt in enumerate(prompts)]
    answers = {}

    def ours(**how):
        engine = Engine(served, 200, **how)
        return lambda: engine.generate(asked, counts)

    ways = {
        "ours, continuous": ours(),
        "ours, static": ours(continuous=False),
        "ours, one by one": ours(max_batch_size=1),
    }
    if "transformers" in everyone:
        ways["transformers, static"] = lambda: everyone["transformers"].serve(asked, counts, 8)
    if "llama.cpp" in everyone:
        ways["llama.cpp, continuous"] = lambda: everyone["llama.cpp"].session(8, 256).serve(asked, counts)

    def run(who):
        seconds, answers[who] = timed(ways[who])
        return seconds

    taken = in_turns({who: lambda who=who: run(who) for who in ways}, rounds)
    report("16 requests", taken)
    for who, given in answers.items():
        same = sum(a == b for a, b in zip(given, answers["ours, one by one"], strict=True))
        rate = sum(counts) / statistics.median(taken[who])
        print(f"{'':18}{who:22}{rate:10.1f} tokens/s, {same} of {len(given)} answers as ours, one by one")


def prefix(served, prompts, rounds):
    """Eight requests that begin with the same 384 tokens: what is read, and how long the first token takes."""
    asked = [prompts[0][:384] + prompt[:32] for prompt in prompts[:8]]

    def first_token(sharing):
        engine = Engine(served, 300, max_step_tokens=512, sharing=sharing)
        engine.generate(asked[:1], 1)
        before, waits = engine.statistics.n_read, []
        for prompt in asked[1:]:
            request = engine.submit(prompt, 1)
            engine.step()
            waits.append(request.time_to_first_token)
        return engine.statistics.n_read - before, statistics.median(waits)

    taken = {"shared": [], "read again": []}
    for _ in range(rounds):
        for who, sharing in (("shared", True), ("read again", False)):
            n_read, wait = first_token(sharing)
            assert n_read == 7 * (32 if sharing else 416), n_read
            taken[who].append(wait)
    report("first token", taken)
    print(f"{'':18}tokens read: 32 a request against 416, as predicted: {416 / 32:.0f} times fewer")


if __name__ == "__main__":
    main()
