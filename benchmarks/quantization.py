"""SmolLM2-135M in small numbers: ours in fp32, int8 and int4, and (if it is installed) llama.cpp's Q8_0, Q4_0, Q4_K_M.

    python benchmarks/quantization.py [--threads 2] [--rounds 5] [--only prefill decode quality]

Prefill of 512 tokens and decode of 1 and of 8 texts, all of the same weights, all in turns in one run; beside each its
share of the roofline (the bytes of its own weights, the machine's bandwidth and its bf16 products in the same round).
Ours is int8 with a scale a row, and int4 in groups of 32 as Q4_0 has it, the head in the same format; int8 also with
activations of one byte (W8A8) and of two, where the CPU has a unit for that; int4 decodes with those of one byte, too,
by the compiled step as int8 and int4 do with wide ones. llama.cpp rounds activations to one byte.
Q4_0's and Q8_0's files have every matrix in that format, too; Q4_K_M is llama.cpp's own mixture. Then the quality:
perplexity, agreement and divergence from the file's weights, rounded to nearest and by GPTQ.
"""

import argparse
import copy
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from inference import N_PROMPT, STEPS, Contiguous, Llama, in_turns, timed
from llama_peer import quiet, write_gguf

from llmhw_helpers.costs.flops import Work
from llmhw_helpers.costs.inference import decode_work, kv_bytes, prefill_work
from llmhw_helpers.llm.checkpoints import find_model, load_model
from llmhw_helpers.llm.gptq import gptq_model
from llmhw_helpers.llm.quality import assess, log_probabilities
from llmhw_helpers.llm.quantization import Scheme, model_bits, quantize_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.serving.decoding import new_cache
from llmhw_helpers.serving.integers import multiplies_integers
from llmhw_helpers.serving.quantized import serve, weights_read
from llmhw_helpers.serving.weights import Served

CASES = ("prefill", "decode", "quality")
OURS = {  # scheme, bits of the activations where they are not left wide
    "ours, int8": (Scheme(8, "row"), None),
    "ours, int8, two bytes": (Scheme(8, "row"), 16),
    "ours, W8A8": (Scheme(8, "row"), 8),
    "ours, int4": (Scheme(4, 32), None),
    "ours, int4, one byte": (Scheme(4, 32), 8),
}
THEIRS = ("Q8_0", "Q4_0", "Q4_K_M")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    return parser.parse_args()


def their_files(folder):
    """llama.cpp's formats of the same weights; Q4_K_M by its own quantiser."""
    import llama_cpp as lib

    lib.llama_log_set(quiet(lib), None)
    paths = {name: Path(folder) / f"{name}.gguf" for name in ("F32", *THEIRS)}
    for name in ("F32", "Q8_0", "Q4_0"):
        write_gguf(find_model(), paths[name], name)
    how = lib.llama_model_quantize_default_params()
    how.ftype = lib.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if lib.llama_model_quantize(str(paths["F32"]).encode(), str(paths["Q4_K_M"]).encode(), how):
        raise RuntimeError("llama.cpp made no Q4_K_M file")
    paths.pop("F32").unlink()
    return paths


def contestants(model, threads, folder):
    """By name: who reads and writes, and the bytes of the weights that a pass fetches."""
    fp32 = Served(copy.deepcopy(model), packed=True)
    everyone = {"ours, fp32": (Contiguous(fp32), 4 * fp32.spec.n_params)}
    for name, (scheme, bits) in OURS.items():
        if bits and scheme.bits == 8 and not multiplies_integers():
            print(f"{name}: this CPU has no unit for it")
            continue
        served = serve(quantize_model(model, scheme).bfloat16(), bits)
        everyone[name] = Contiguous(served), weights_read(served)
    try:
        for name, path in their_files(folder).items():
            everyone[f"llama.cpp, {name}"] = Llama(path, threads), path.stat().st_size
    except ImportError:
        print("llama-cpp-python is not installed: without llama.cpp")
    return everyone


def speed(model, arguments):
    """Seconds of everyone in turns, as ratios to ours in int4, and each as a share of its own floor."""
    with tempfile.TemporaryDirectory() as folder:
        everyone = contestants(model, arguments.threads, folder)
        torch.manual_seed(0)
        prompts = torch.randint(0, model.spec.vocab_size, (8, 512)).tolist()
        reference = everyone["ours, fp32"][0].read([prompts[0][:64]])
        for name, (one, _) in everyone.items():
            apart = ((one.read([prompts[0][:64]]).float() - reference).norm() / reference.norm()).item()
            print(f"{name:23} logits {apart:.3f} from fp32's")
            assert apart < 0.5, name
        stream, square = torch.ones(2**27), torch.randn(1152, 1152).bfloat16()
        reads, products = [], []

        def roof():
            reads.append(max(stream.nbytes / timed(stream.sum)[0] for _ in range(3)))
            products.append(max(2 * 1152**3 / timed(lambda: square @ square)[0] for _ in range(5)))
            return 1.0

        cases = (
            [("prefill 512", 1, prefill_work(model.spec, 1, 512, "bf16").flops)] if "prefill" in arguments.only else []
        )
        for n in (1, 8) if "decode" in arguments.only else ():
            cases.append((f"decode, batch {n}", n, decode_work(model.spec, n, N_PROMPT + STEPS // 2, "bf16").flops))
        for case, n, flops in cases:
            if case.startswith("prefill"):
                runs = {
                    who: lambda one=one: timed(lambda: one.read(prompts[:1]))[0] for who, (one, _) in everyone.items()
                }
            else:
                runs = {
                    who: lambda one=one, n=n: decode_seconds(one, prompts[:n]) for who, (one, _) in everyone.items()
                }
            taken = in_turns(runs, arguments.rounds, roof)
            taken.pop("floor")
            cache = n * kv_bytes(model.spec, N_PROMPT, "bf16")
            for who, seconds in taken.items():
                floor = max(flops / max(products), Work(0, everyone[who][1] + cache).bytes / max(reads))
                ratio = median(a / b for a, b in zip(seconds, taken["ours, int4"], strict=True))
                now = f"{1e3 * median(seconds):9.1f} ms{ratio:7.2f} of ours, int4"
                print(f"{case:17}{who:23}{now}{floor / median(seconds):7.2f} of its roofline", flush=True)


def decode_seconds(contestant, prompts):
    """A step's."""
    tokens = contestant.read([prompt[:N_PROMPT] for prompt in prompts]).argmax(-1)
    return timed(lambda: [contestant.write(tokens) for _ in range(STEPS)])[0] / STEPS


def told(found):
    """A line of it."""
    return f"perplexity {found.perplexity:6.2f}, agreement {found.agreement:.3f}, divergence {found.divergence:.4f}"


class Whole:
    """Logits at all positions from a served model, as `assess` asks for them."""

    def __init__(self, served):
        self.served = served

    def __call__(self, tokens):
        """``[batch, n_tokens, vocab_size]``."""
        window = new_cache(self.served, *tokens.shape).window(tokens.shape[1])
        return self.served.head(self.served.forward(tokens, window.positions, window.attend))


def quality(model):
    """On 4,096 tokens of Python's help topics; GPTQ has seen 4,096 of NumPy's documentation."""
    from pydoc_data.topics import topics

    tokenizer = load_tokenizer()
    text = " ".join(topics[key] for key in sorted(topics))
    tokens = torch.tensor(tokenizer.encode(text[:60000])[:4096]).view(-1, 512)
    pages = "\n\n".join(getattr(np, name).__doc__ for name in sorted(np.__all__) if callable(getattr(np, name)))
    seen = torch.tensor(tokenizer.encode(pages[:30000])[:4096]).view(-1, 512)
    reference, by_row = log_probabilities(model, tokens), Scheme(8, "row")
    print(f"as in the file: perplexity {assess(model, tokens).perplexity:.2f}")
    for bits in (8, 16) if multiplies_integers() else ():
        found = assess(Whole(serve(quantize_model(model, by_row), bits)), tokens, reference)
        print(f"{f'int8, activations too: {bits} bits':31}{told(found)}")
    for name, make in {
        "int8 by row": lambda: quantize_model(model, by_row),
        "int4, groups of 32": lambda: quantize_model(model, Scheme(4, 32)),
        "int4, groups of 64, head int8": lambda: quantize_model(model, Scheme(4, 64), by_row),
        "... by GPTQ": lambda: gptq_model(model, Scheme(4, 64), seen, by_row),
        "NF4, groups of 64, head int8": lambda: quantize_model(model, Scheme(4, 64, "nf4"), by_row),
    }.items():
        made = make()
        found, bits = assess(made, tokens, reference), model_bits(made) / model.spec.n_params
        print(f"{name:31}{told(found)}, {bits:.2f} bits a weight", flush=True)


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    model = load_model()
    print(f"{arguments.threads} threads, {arguments.rounds} rounds in turns, torch {torch.__version__}")
    if set(arguments.only) & {"prefill", "decode"}:
        speed(model, arguments)
    if "quality" in arguments.only:
        quality(model)


if __name__ == "__main__":
    main()
