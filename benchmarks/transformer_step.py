"""SmolLM2-135M: prefill of 512 tokens and a whole training step, ours and Hugging Face transformers', the same weights.

    python benchmarks/transformer_step.py [--threads 2] [--dtype float32] [--rounds 7]

Both take turns in one run; what counts are the ratios. They must first agree on the logits and on a gradient.
"""

import argparse
import statistics
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs=2, default=(4, 128), help="sequences and tokens of a training step")
    return parser.parse_args()


def main():
    arguments = parse()
    import torch
    from transformers import AutoModelForCausalLM, __version__

    from llmhw_helpers.llm.checkpoints import find_model, load_model
    from llmhw_helpers.llm.loss import head_loss

    torch.set_num_threads(arguments.threads)
    dtype, path = getattr(torch, arguments.dtype), find_model()
    ours = load_model(dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    torch.manual_seed(0)
    prompt = torch.randint(0, ours.spec.vocab_size, (1, 512))
    batch_size, seq_len = arguments.batch
    batch = torch.randint(0, ours.spec.vocab_size, (batch_size, seq_len + 1))
    tokens, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in (ours, theirs)]

    def our_gradient():
        head_loss(ours.hidden(tokens).flatten(0, 1), ours.token_embd.weight, targets.flatten()).backward()

    def their_gradient():
        theirs(input_ids=tokens, labels=tokens, shift_labels=targets).loss.backward()

    def step(gradient, optimizer):
        gradient()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def prefill(model, last):
        if model is ours:
            return ours.head(ours.hidden(prompt)[:, -1:]) if last else ours(prompt)
        return theirs(prompt, logits_to_keep=int(last), use_cache=False).logits

    def distance(a, b):
        return ((a - b).norm() / b.norm()).item()

    our_gradient(), their_gradient()
    pair = ours.blk[0].ffn_up.weight.grad, theirs.model.layers[0].mlp.up_proj.weight.grad
    apart = distance(prefill(ours, False), prefill(theirs, False)), distance(*pair)
    assert max(apart) < (1e-4 if dtype == torch.float32 else 0.1), apart

    cases = {
        "prefill 512, all logits": (lambda: prefill(ours, False), lambda: prefill(theirs, False)),
        "prefill 512, last position": (lambda: prefill(ours, True), lambda: prefill(theirs, True)),
        f"training step, {batch_size} x {seq_len}": (
            lambda: step(our_gradient, optimizers[0]),
            lambda: step(their_gradient, optimizers[1]),
        ),
    }
    print(f"{arguments.dtype}, {arguments.threads} thread(s), {arguments.rounds} rounds in turns, ", end="")
    print(f"torch {torch.__version__}, transformers {__version__}")
    print(f"{'':30}{'ours':>10}{'theirs':>10}{'ours / theirs':>16}")
    for name, pair in cases.items():
        rounds = [[], []]
        for k in range(arguments.rounds + 1):
            order = (0, 1) if k % 2 else (1, 0)
            for who in order:
                begin = time.perf_counter()
                pair[who]()
                if k:
                    rounds[who].append(time.perf_counter() - begin)
        ratio = statistics.median(a / b for a, b in zip(*rounds, strict=True))
        print(f"{name:30}{statistics.median(rounds[0]):8.3f} s{statistics.median(rounds[1]):8.3f} s{ratio:16.3f}")


if __name__ == "__main__":
    main()
