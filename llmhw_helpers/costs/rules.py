"""Rules of thumb for training on many GPUs, each put to our formulas: does it hold, and from when?

The rules are those of the Ultra-Scale Playbook (Hugging Face, 2025, the Space nanotron/ultrascale-playbook). Its runs
were on nodes of 8 H100: so are these, with the adapter for each GPU that such nodes are sold with. Where a rule is
about a network, the answer is told for another one, too. A rule is a function: its answer is computed each time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..specs.accelerators import accelerator
from ..specs.clusters import cluster
from ..specs.links import link, node_link
from ..specs.models import model as find_model
from .activations import block_kept
from .collectives import path
from .durations import Training
from .efficiency import FITTED, link_bytes_per_s
from .layouts import Row, asked, weigh
from .operations import Pass
from .places import offers
from .training_memory import Layout
from .transformer import forward_flops

PLAYBOOK = "Ultra-Scale Playbook (Hugging Face, 2025)"
CARDS, IN_NODE = "H100", 8
SEQ_LEN, BATCH = 4096, 4 * 2**20
NOTABLE = 1.1  # times as long: enough to care


@dataclass(frozen=True)
class Rule:
    """A rule and what our formulas say of it.

    Attributes:
        rule: in short.
        source: where it stands.
        holds: ``"yes"``, ``"partly"`` or ``"no"``.
        answer: what was computed, with numbers.
        since: from when it holds, or until when; empty where it always does, or never.
    """

    rule: str
    source: str
    holds: str
    answer: str
    since: str = ""


def rules() -> list[Rule]:
    """All of them, asked now."""
    return [each() for each in RULES]


def best(model: str, n_gpus: int, shapes: list[tuple[int, int]], batch_tokens: int = BATCH) -> Row:
    """The fastest layout on so many H100 whose (tp_size, pp_size) is one of `shapes`; what is left are copies."""
    nodes = replace(offers(CARDS)[0], n_gpus=n_gpus, gpus_per_node=IN_NODE)
    request = asked(model, nodes, n_gpus, SEQ_LEN, batch_tokens)
    rows = [
        weigh(request, request.where[0], Layout(n_gpus // tp_size // pp_size, tp_size, pp_size))
        for tp_size, pp_size in shapes
        if n_gpus % (tp_size * pp_size) == 0
    ]
    return min(rows, key=lambda row: (bool(row.refused), row.seconds or 0.0))


def tensor_parallelism_stays_in_a_node() -> Rule:
    """From 8 ranks to 16 the network comes in between."""
    llama, card = find_model("Llama-3.1-8B"), accelerator(CARDS)
    sizes = (4, 8, 16, 32)
    runs = [Training(card, llama, SEQ_LEN, tp_size=n, nodes=max(1, n // IN_NODE)).micro_batch().seconds for n in sizes]
    speeds = [SEQ_LEN / n / seconds for n, seconds in zip(sizes, runs, strict=True)]
    inside, over = 1 - speeds[1] / speeds[0], 1 - speeds[2] / speeds[1]
    told = ", ".join(f"TP {n}: {speed:,.0f}" for n, speed in zip(sizes, speeds, strict=True))
    told = f"{told} tokens/s a GPU with 8B; from 4 to 8 ranks {inside:.0%} are lost, from 8 to 16 {over:.0%}"
    slow = cluster("Alvis").node("A100-40GB").network_bits_per_s.known() / 8
    nodes = [
        Training(accelerator("A100-40GB"), llama, SEQ_LEN, tp_size=n, nodes=n // 4, network_bytes_per_s=slow)
        for n in (4, 8)
    ]
    four, eight = (SEQ_LEN / run.tp_size / run.micro_batch().seconds for run in nodes)
    told += f"; on Alvis's A100 from 4 to 8, which are two nodes, {1 - eight / four:.0%}"
    return Rule(
        "tensor parallelism inside a node only: 8 ranks at most",
        f"{PLAYBOOK}, tensor parallelism",
        "yes" if over > inside else "partly",
        told,
        "the more, the slower the network",
    )


def a_node_is_enough_for_small_models() -> Rule:
    """Below 10 billion parameters one technique on 8 GPUs, with full recomputation if it must be."""
    names = ("Llama-3.2-1B", "Llama-3.1-8B", "Llama-2-13B", "Qwen2.5-32B", "Llama-3.1-70B")
    ways = {"ZeRO": [(1, 1)], "TP": [(8, 1)]}
    fitting = {way: [n for n in names if not best(n, 8, shape).refused] for way, shape in ways.items()}
    small = [n for n in names if find_model(n).n_params < 10e9]
    held = all(n in fitting[way] for n in small for way in ways)
    told = "; ".join(f"{way} alone fits {', '.join(found)}" for way, found in fitting.items())
    quick = {way: best("Llama-3.1-8B", 8, shape).seconds for way, shape in ways.items()}
    told += f"; a step of 8B takes {quick['ZeRO']:.0f} s with ZeRO, {quick['TP']:.0f} s with TP"
    largest = max(find_model(n).n_params for n in fitting["ZeRO"])
    return Rule(
        "models below 10B: ZeRO-3 or tensor parallelism alone, on 8 GPUs",
        f"{PLAYBOOK}, finding the best training configuration, step 1",
        "yes" if held else "no",
        told,
        f"up to {largest / 1e9:.0f}B of those tried",
    )


def sharded_copies_alone_degrade() -> Rule:
    """ZeRO-3 against the best mix, with steps of one size: the more GPUs, the fewer tokens each has to hide weights."""
    mixes = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 4), (2, 4), (4, 4), (8, 2), (8, 4), (8, 8)]
    told, late = [], {}
    for batch_tokens in (2**20, BATCH):
        ratios = {}
        for n_gpus in (64, 256, 512, 1024):
            alone, mix = (best("Llama-3.1-70B", n_gpus, shapes, batch_tokens) for shapes in ([(1, 1)], mixes))
            ratios[n_gpus] = alone.seconds / mix.seconds if alone.seconds else math.inf
        late[batch_tokens] = min((n for n, ratio in ratios.items() if ratio > NOTABLE), default=None)
        seen = ", ".join(f"{n}: {'-' if ratio == math.inf else f'{ratio:.2f}'}" for n, ratio in ratios.items())
        told.append(f"steps of {batch_tokens // 2**20}M tokens, {seen}")
    since = [f"{n} GPUs on with {tokens // 2**20}M" for tokens, n in late.items() if n]
    return Rule(
        "from about 512 GPUs on ZeRO-3 alone is inefficient",
        f"{PLAYBOOK}, ZeRO-3 and step 1",
        "yes" if set(late.values()) <= {256, 512, 1024} else "partly" if since else "no",
        f"70B, times as long as the best mix by GPUs (- is fewer sequences than GPUs): {'; '.join(told)}",
        f"from {' and from '.join(since)}; what GPUs wait for slow ones is not in these formulas" if since else "",
    )


def a_thousand_gpus_want_all_three() -> Rule:
    """TP 8, with copies and stages, against every other mix of this list."""
    shapes = [(tp_size, pp_size) for tp_size in (1, 2, 4, 8) for pp_size in (1, 2, 4, 8)]
    top = best("Llama-3.1-70B", 1024, shapes)
    three = best("Llama-3.1-70B", 1024, [shape for shape in shapes if shape[0] == IN_NODE and shape[1] > 1])
    slower = three.seconds / top.seconds
    return Rule(
        "from 1024 GPUs on: TP 8, copies with ZeRO-2, and stages",
        f"{PLAYBOOK}, step 1",
        "yes" if slower == 1 else "partly" if slower < 1.4 else "no",
        f"70B, steps of 4M tokens: {top.name} takes {top.seconds:.1f} s, {three.name} {three.seconds:.1f} s",
        f"all three, with TP {top.layout.tp_size}" if top.layout.tp_size > 1 < top.layout.pp_size else "",
    )


def steps_of_millions_of_tokens() -> Rule:
    """What the size of a step is worth to the GPUs; what it is worth to learning, no formula here says."""
    shapes = [(t, p) for t in (1, 2, 4, 8) for p in (1, 4, 8)]
    seconds = {m: best("Llama-3.1-70B", 512, shapes, m * 2**20).seconds / m for m in (1, 2, 4, 16, 64)}
    told = ", ".join(f"{m}M: {each / seconds[64]:.2f}" for m, each in seconds.items())
    enough = min(m for m, each in seconds.items() if each <= NOTABLE * seconds[64])
    return Rule(
        "steps of 4 to 60 million tokens",
        f"{PLAYBOOK}, batch size",
        "yes" if enough <= 4 else "partly",
        f"70B on 512 GPUs, time a token by tokens of a step, against 64M: {told}",
        f"within a tenth from {enough}M on; what learning gains or loses is not in these formulas",
    )


def stages_go_between_nodes() -> Rule:
    """Bytes that leave a node in a step, by what goes between two nodes of it."""
    llama = find_model("Llama-3.1-70B")
    stream, weights = 2 * BATCH * llama.d_model, 2 * llama.n_params  # in 16 bits
    sent = {
        "stages": stream,  # and as much comes back
        "copies, ZeRO 1": path("all-reduce", weights, 2)[1],
        "copies, ZeRO 3": 3 * path("all-gather", weights, 2)[1] * BATCH / 2 / (IN_NODE * SEQ_LEN),
        "tensor ranks": 4 * llama.n_layers * path("all-reduce", stream, 2)[1],
    }
    told = "70B on two nodes, 4M tokens, GB out of a node: " + ", ".join(f"{k} {v / 1e9:,.0f}" for k, v in sent.items())
    fewer = sent["stages"] < sent["copies, ZeRO 3"] < sent["tensor ranks"]
    equal = BATCH * sent["copies, ZeRO 1"] / sent["stages"]
    return Rule(
        "between nodes: stages of a pipeline, once copies ask too much of the network",
        f"{PLAYBOOK}, pipeline parallelism and step 3",
        "yes" if fewer else "no",
        told,
        f"copies that are not sharded (ZeRO 1) send less than stages from {equal / 1e6:.1f}M tokens a step on",
    )


def recompute_selectively() -> Rule:
    """What attention's scores hold, and cost to make again; and what fused attention leaves of that."""
    sizes = {"n_layers": 96, "d_model": 12288, "d_ff": 32768, "n_heads": 96, "n_kv_heads": 96, "head_dim": 128}
    gpt = replace(find_model("Llama-2-7B"), **sizes)
    kept = {
        (attention, recompute): block_kept(gpt, Pass(1, 2048, attention=attention, recompute=recompute), 0)
        for attention in ("naive", "fused")
        for recompute in ("none", "selective")
    }
    saved = {way: 1 - kept[way, "selective"] / kept[way, "none"] for way in ("naive", "fused")}
    flops = forward_flops(gpt, 1, 2048)
    more = flops["attention"] / 3 / sum(flops.values())
    told = f"a Llama of GPT-3's sizes: {saved['naive']:.0%} of a block's activations for {more:.1%} more products"
    told += " (the paper's block has dropout, and keeps 5 bytes of a score, not 2)"
    told += f"; of fused attention's {saved['fused']:.0%}"
    return Rule(
        "recompute selectively: 70% of the activations for 2.7% of the computing",
        f"{PLAYBOOK}, activation recomputation, after arXiv:2205.05198",
        "partly" if saved["fused"] < 0.1 else "yes",
        told,
        "where scores are stored; fused attention has done it already",
    )


def hidden_tokens(card: str, network: str, n_adapters: int) -> float:
    """Tokens of a micro-batch on each GPU from which on ZeRO-3's sending takes no longer than the products.

    Each parameter is sent three times in 16 bits, 6 bytes, and 6 operations are done with it for each token; so the
    model's size cancels. What a node's ranks gather comes in from other nodes once.

    Args:
        card, network: by name; the card's own links count, too.
        n_adapters: of a node.

    >>> round(hidden_tokens("A100-40GB", "EDR InfiniBand", 1), -2)
    19600.0
    """
    found = accelerator(card)
    rate = min(link_bytes_per_s(node_link(found.name)), n_adapters * link_bytes_per_s(link(network)))
    return found.peak("bf16").known() * FITTED["training products"] / rate


def communication_hides() -> Rule:
    """From which micro-batch on weights arrive in time."""
    tokens = {
        "H100": hidden_tokens("H100", "NDR InfiniBand", IN_NODE),
        "A100 on Alvis": hidden_tokens("A100-40GB", "EDR InfiniBand", 1),
        "A40 on Alvis": hidden_tokens("A40", "25 Gbit Ethernet", 1),
    }
    told = ", ".join(f"{place} from {n:,.0f}" for place, n in tokens.items())
    return Rule(
        "ZeRO-3 hides its sending behind the products, if there are enough tokens",
        f"{PLAYBOOK}, ZeRO-3",
        "yes" if max(tokens.values()) < 32768 else "partly",
        f"tokens of a micro-batch on each GPU: {told}",
        "whatever the model's size; the slower the network, the more tokens",
    )


RULES: tuple[Callable[[], Rule], ...] = (
    tensor_parallelism_stays_in_a_node,
    a_node_is_enough_for_small_models,
    sharded_copies_alone_degrade,
    a_thousand_gpus_want_all_three,
    steps_of_millions_of_tokens,
    stages_go_between_nodes,
    recompute_selectively,
    communication_hides,
)
