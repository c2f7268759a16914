"""SmolLM2-135M: prefill of 512 tokens, decode at batch 1 and 8, ours and Hugging Face transformers', the same weights.

    python benchmarks/inference.py [--threads 2] [--dtype float32] [--rounds 7]

All take turns in one run, and so does the machine's own roofline: what counts are the ratios. First the two must agree
on the logits, after the prompt and after a decoded token. transformers uses its own cache (DynamicCache).
"""

import argparse
import statistics
import time

STEPS = 8  # decoded tokens of a round
N_PROMPT = 128  # tokens before them


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main():
    arguments = parse()
    import torch
    from transformers import AutoModelForCausalLM, __version__

    from llmhw_helpers.costs.inference import decode_work, prefill_work
    from llmhw_helpers.costs.roofline import Roof
    from llmhw_helpers.llm.checkpoints import find_model, load_model
    from llmhw_helpers.serving.decoding import decode, new_cache, prefill
    from llmhw_helpers.serving.weights import Served

    torch.set_num_threads(arguments.threads)
    dtype, path = getattr(torch, arguments.dtype), find_model()
    name = {"float32": "fp32", "bfloat16": "bf16"}[arguments.dtype]
    ours = Served(load_model(dtype=dtype))
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
    torch.manual_seed(0)
    prompts = torch.randint(0, ours.spec.vocab_size, (8, 512))
    stream, square = torch.ones(2**27), torch.randn(1152, 1152, dtype=dtype)

    @torch.inference_mode()
    def read(who, batch_size, n):
        if who == "ours":
            cache = new_cache(ours, batch_size, n + STEPS)
            return cache, prefill(ours, prompts[:batch_size, :n].tolist(), cache)
        out = theirs(prompts[:batch_size, :n], use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[:, -1]

    @torch.inference_mode()
    def write(who, cache, n_steps=STEPS):
        tokens = prompts[: len(cache.lengths) if who == "ours" else cache.layers[0].keys.shape[0], -1]
        for _ in range(n_steps):
            if who == "ours":
                logits = decode(ours, tokens, cache)
            else:
                logits = theirs(tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
        return logits

    for batch_size in (1, 8):
        pairs = [read(who, batch_size, 64) for who in ("ours", "theirs")]
        steps = [write(who, cache, 1) for who, (cache, _) in zip(("ours", "theirs"), pairs, strict=True)]
        for a, b in ((pairs[0][1], pairs[1][1]), steps):
            apart = ((a - b).norm() / b.norm()).item()
            assert apart < (1e-4 if dtype == torch.float32 else 0.1), apart

    cases = {
        "prefill 512": (1, prefill_work(ours.spec, 1, 512, name)),
        "decode, batch 1": (1, decode_work(ours.spec, 1, N_PROMPT + STEPS // 2, name)),
        "decode, batch 8": (8, decode_work(ours.spec, 8, N_PROMPT + STEPS // 2, name)),
    }
    print(f"{arguments.dtype}, {arguments.threads} thread(s), {arguments.rounds} rounds in turns, ", end="")
    print(f"torch {torch.__version__}, transformers {__version__}; medians, and medians of ratios")
    print(f"{'':18}{'ours':>10}{'theirs':>10}{'floor':>10}{'floor / ours':>14}{'theirs / ours':>15}")
    for case, (batch_size, work) in cases.items():
        rounds = {"ours": [], "theirs": [], "floor": []}
        for k in range(arguments.rounds + 1):
            reads = max(stream.nbytes / seconds(stream.sum) for _ in range(3))
            products = max(2 * 1152**3 / seconds(lambda: square @ square) for _ in range(5))
            floor = Roof("now", {name: products}, reads).floor(work, name).seconds
            taken = {}
            for who in ("ours", "theirs") if k % 2 else ("theirs", "ours"):
                if case.startswith("prefill"):
                    taken[who] = seconds(lambda: read(who, 1, 512))  # noqa: B023
                else:
                    cache, _ = read(who, batch_size, N_PROMPT)
                    taken[who] = seconds(lambda: write(who, cache)) / STEPS  # noqa: B023
            if k:
                for key, value in (taken | {"floor": floor}).items():
                    rounds[key].append(value)
        medians = [statistics.median(rounds[key]) for key in ("ours", "theirs", "floor")]
        ratios = [
            statistics.median(a / b for a, b in zip(rounds[key], rounds["ours"], strict=True))
            for key in ("floor", "theirs")
        ]
        columns = "".join(f"{1e3 * median:7.1f} ms" for median in medians)
        print(f"{case:18}{columns}{ratios[0]:14.2f}{ratios[1]:15.2f}", flush=True)


if __name__ == "__main__":
    main()
