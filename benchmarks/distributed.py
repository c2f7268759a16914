"""Many ranks, one model: each part of `llmhw_helpers.distributed` beside its formula and beside PyTorch's own.

    python benchmarks/distributed.py [--section pipeline] [--rounds 5]

What counts are ratios within one run; a section is a function that prints its table.
"""

import argparse
import statistics


def pipeline(rounds):
    """The share of a step in which ranks work: by the formula, by a simulation with the stages' own times, measured.

    Two ranks work in earnest, one on each of two cores; four sleep for as long as a device would work.
    """
    from llmhw_helpers.costs.pipelines import bubble, idle_share, simulate
    from llmhw_helpers.costs.schedules import make_schedule
    from llmhw_helpers.distributed.ranks import Ranks

    print(f"{'pipeline':34} formula simulated  measured  measured / formula")
    for p, slept_s in ((2, 0.0), (4, 0.96)):
        with Ranks(p, timeout_s=120) as ranks:
            for name, m, v in [("1F1B", m, 1) for m in (1, 2, 4, 8)] + [("GPipe", 8, 1), ("interleaved", 8, 2)]:
                schedule, pass_s = make_schedule(name, p, m, v), slept_s / m / v / 3
                by_rank = ranks.run(pipeline_steps, schedule, (pass_s, 2 * pass_s), 16 if slept_s else 128, rounds)
                runs = [[event for events in step for event in events] for step in zip(*by_rank, strict=True)]
                seconds = stage_seconds([event for run in runs for event in run], p)
                formula, simulated = 1 - bubble(p, m, v), 1 - idle_share(simulate(schedule, *seconds))
                measured = statistics.median(1 - idle_share(run) for run in runs)
                label = f"{name}, {p} ranks {'asleep' if slept_s else 'at work'}, m={m}"
                print(f"{label:34} {formula:7.3f} {simulated:9.3f} {measured:9.3f} {measured / formula:19.2f}")


def pipeline_steps(schedule, device_s, seq_len, rounds):
    """Events of this rank in each of `rounds` steps, after one that warms up."""
    import torch

    from llmhw_helpers.distributed.pipeline_parallel import Pipeline
    from llmhw_helpers.llm.transformer import Transformer
    from llmhw_helpers.specs.architectures import Model

    shape = {"n_layers": 8, "d_model": 256, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64, "d_ff": 768}
    spec = Model("bench", **shape, vocab_size=512, tied_embeddings=False, context_length=256, rope_theta=1e4, source="")
    torch.manual_seed(0)
    run, tokens = Pipeline(Transformer(spec), schedule, device_s), torch.randint(512, (16, seq_len))
    return [run.step(tokens, tokens).events for _ in range(rounds + 1)][1:]


def stage_seconds(events, pp_size):
    """Medians of the forward and of the backward passes, by stage."""
    took = {}
    for event in events:
        stage = event.chunk * pp_size + event.rank
        took.setdefault(event.kind, {}).setdefault(stage, []).append(event.end_s - event.start_s)
    return [[statistics.median(took[kind][stage]) for stage in sorted(took[kind])] for kind in ("forward", "backward")]


def data_parallel(rounds):
    """A step of two ranks, ours and DDP's in turns, on wires of several speeds; and what the formula says of it.

    Predicted from the seconds of a pass that sends nothing and from the wire that explains all-reduces of this run.
    """
    from llmhw_helpers.costs.collectives import fit
    from llmhw_helpers.costs.data_parallel import step_seconds
    from llmhw_helpers.distributed.networks import Network, cannot_shape
    from llmhw_helpers.distributed.ranks import Ranks

    networks = {"loopback": None, "1 Gbit/s": Network(1e9), "250 Mbit/s": Network(250e6)}
    if why := cannot_shape():
        networks = {"loopback": None}
        print(why)
    print(
        f"{'data parallel':14} computing    DDP   ours  DDP / ours  predicted: at once  overlapped  ours / overlapped"
    )
    for name, network in networks.items():
        with Ranks(2, network=network, timeout_s=120) as ranks:
            by_rank = ranks.run(data_parallel_steps, rounds)
        _, buckets = by_rank[0]
        slowest = {
            key: [max(pair) for pair in zip(*(times[key] for times, _ in by_rank), strict=True)]
            for key in by_rank[0][0]
        }
        median = {key: statistics.median(times) for key, times in slowest.items()}
        ratio = statistics.median(a / b for a, b in zip(slowest["DDP"], slowest["ours"], strict=True))
        wire = fit([(key, s) for key, s in median.items() if isinstance(key, int)], "all-reduce")
        passes = median["forward"], median["alone"] - median["forward"]
        later, during = (step_seconds(*passes, buckets, wire, 2, overlap) for overlap in (False, True))
        print(
            f"{name:14}{median['alone']:8.3f} s{median['DDP']:7.3f}{median['ours']:7.3f}{ratio:12.2f}"
            f"{later:20.3f}{during:12.3f}{median['ours'] / during:19.2f}"
        )


def data_parallel_steps(rounds):
    """Seconds of this rank in each round, by what was done (or by the bytes of an all-reduce); and the buckets."""
    import time
    from dataclasses import replace

    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch.nn.parallel import DistributedDataParallel

    from llmhw_helpers.distributed.data_parallel import DataParallel
    from llmhw_helpers.llm.transformer import Transformer
    from llmhw_helpers.specs.models import model

    spec, bucket_bytes = replace(model("SmolLM2-135M"), n_layers=3, vocab_size=4096), 4 << 20
    ours = DataParallel(Transformer(spec), bucket_bytes)
    theirs = DistributedDataParallel(Transformer(spec), bucket_cap_mb=bucket_bytes >> 20)
    batch = torch.randint(0, spec.vocab_size, (4, 129))

    def loss(m):
        return F.cross_entropy(m(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def alone():
        with ours.no_sync():
            loss(ours).backward()

    work = {"ours": lambda: loss(ours).backward(), "DDP": lambda: loss(theirs).backward()}
    work |= {"alone": alone, "forward": lambda: loss(ours)}
    work |= {x.nbytes: lambda x=x: dist.all_reduce(x) for x in (torch.zeros(n) for n in (1 << 14, 1 << 18, 1 << 22))}
    times = {key: [] for key in work}
    for i in range(rounds + 1):
        for key in reversed(work) if i % 2 else work:
            dist.barrier()
            start = time.perf_counter()
            work[key]()
            if i:  # the first round opens connections, and DDP orders its buckets anew
                times[key].append(time.perf_counter() - start)
            ours.model.zero_grad()
            theirs.zero_grad()
    return times, [bucket.n_bytes for bucket in ours.buckets]


def ring(rounds):
    """An all-reduce by hand, from send and receive, beside gloo's own: on the loopback, and on wires of 1 Gbit/s."""
    from llmhw_helpers.distributed.networks import Network, cannot_shape
    from llmhw_helpers.distributed.ranks import Ranks

    print(f"{'ring all-reduce':34} {'gloo':>9} {'ours':>9}  gloo / ours")
    if cannot_shape():
        print(cannot_shape())
    for network in [None] if cannot_shape() else [None, Network(1e9)]:
        for n_ranks in (2, 4):
            with Ranks(n_ranks, network, timeout_s=120) as ranks:
                for n_values in (1_000, 100_000, 5_000_000):
                    gloo, ours = zip(*ranks.run(ring_rounds, n_values, rounds)[0], strict=True)
                    ratio = statistics.median(a / b for a, b in zip(gloo, ours, strict=True))
                    label = f"{'wires' if network else 'loopback'}, {n_ranks} ranks, {4 * n_values / 1e6:g} MB"
                    times = " ".join(f"{statistics.median(seconds) * 1e3:6.2f} ms" for seconds in (gloo, ours))
                    print(f"{label:34} {times} {ratio:12.2f}")


def ring_rounds(n_values, rounds):
    """Seconds of gloo's all-reduce and of ours, in turns; every rank enters a round at the same time."""
    import time

    import torch
    import torch.distributed as dist

    from llmhw_helpers.distributed.rings import ring_all_reduce

    seconds, x = [], torch.zeros(n_values)
    for _ in range(rounds + 1):
        seconds.append([])
        for reduce in (dist.all_reduce, ring_all_reduce):
            dist.barrier()
            begin = time.perf_counter()
            reduce(x)
            seconds[-1].append(time.perf_counter() - begin)
    return seconds[1:]


SECTIONS = {"ring": ring, "data_parallel": data_parallel, "pipeline": pipeline}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--section", choices=SECTIONS, action="append", help="several times for several; all without it"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.section or SECTIONS:
        SECTIONS[name](arguments.rounds)


if __name__ == "__main__":
    main()
