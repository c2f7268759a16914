"""A LoRA step and a full fine-tuning step of SmolLM2-135M: ours, and Hugging Face transformers with peft.

    python benchmarks/lora_step.py [--threads 2] [--dtype float32] [--rounds 9] [--rank 8]

Same weights, adapters, batch and optimizer; all take turns in one run, and what counts are the ratios. They must first
agree on the loss and on a gradient.
"""

import argparse
import statistics
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs=2, default=(4, 128), help="sequences, and tokens in each")
    return parser.parse_args()


def main():
    arguments = parse()
    import tempfile

    import peft
    import torch
    import transformers

    from llmhw_helpers.llm.adapters import save_adapter
    from llmhw_helpers.llm.checkpoints import find_model, load_model
    from llmhw_helpers.llm.lora import add_lora
    from llmhw_helpers.llm.training import answer_loss

    torch.set_num_threads(arguments.threads)
    dtype, path = getattr(torch, arguments.dtype), find_model()

    def load_theirs():
        return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)

    torch.manual_seed(0)
    ours, ours_full, theirs_full = load_model(dtype=dtype), load_model(dtype=dtype), load_theirs()
    add_lora(ours, arguments.rank, 2.0 * arguments.rank)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(ours, folder)
        theirs = peft.PeftModel.from_pretrained(load_theirs(), folder, is_trainable=True)
    batch_size, seq_len = arguments.batch
    tokens = torch.randint(0, ours.spec.vocab_size, (batch_size, seq_len + 1))
    batch = torch.stack((tokens[:, :-1], tokens[:, 1:]))

    def our_loss(model):
        return answer_loss(model, batch)

    def their_loss(model):
        return model(input_ids=batch[0], labels=batch[0], shift_labels=batch[1], use_cache=False).loss

    def make(model, loss):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

        def step():
            loss(model).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    cases = {"LoRA": (ours, theirs), "full": (ours_full, theirs_full)}
    for name, (mine, other) in cases.items():
        a, b = our_loss(mine), their_loss(other)
        a.backward(), b.backward()
        assert abs(a.item() - b.item()) < (1e-3 if dtype == torch.float32 else 0.1), (name, a, b)
        mine.zero_grad(), other.zero_grad()
    print(
        f"{arguments.dtype}, {arguments.threads} thread(s), {batch_size} x {seq_len} tokens, rank {arguments.rank},",
        end=" ",
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    print(f"{arguments.rounds} rounds in turns")
    steps = {name: (make(mine, our_loss), make(other, their_loss)) for name, (mine, other) in cases.items()}
    seconds = {(name, who): [] for name in steps for who in (0, 1)}
    for k in range(arguments.rounds + 1):
        for name, pair in steps.items():
            for who in (0, 1) if k % 2 else (1, 0):
                begin = time.perf_counter()
                pair[who]()
                if k:
                    seconds[name, who].append(time.perf_counter() - begin)
    print(f"{'':8}{'ours':>10}{'theirs':>10}{'ours / theirs':>16}")
    for name in steps:
        mine, other = seconds[name, 0], seconds[name, 1]
        ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
        print(f"{name:8}{statistics.median(mine):8.3f} s{statistics.median(other):8.3f} s{ratio:16.3f}")
    share = statistics.median(a / b for a, b in zip(seconds["LoRA", 0], seconds["full", 0], strict=True))
    print(f"ours, LoRA / full: {share:.3f}")


if __name__ == "__main__":
    main()
