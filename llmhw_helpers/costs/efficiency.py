"""How near real systems come to the roof: a few constants that explain what others measured, and the range they leave.

A step of decoding takes the time to fetch weights and caches, or to multiply, and besides for each layer a fixed time:
kernels are launched, and ranks wait for each other. So small models, and large ones divided among many GPUs, stay far
from the roof, whatever the program does. Two more things hold a GPU back. A multiprocessor takes in only so many bytes
in a cycle, fewer where it has to unpack weights of 4 bits: a card with much bandwidth for few multiprocessors does
not reach it. And products reach a part of the peak, a smaller part of a higher one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up
from ..specs.links import Link
from ..specs.links import link as find_link
from .collectives import sent_bytes

# Which programs are meant by a class of them.
PROGRAMS = {
    "compiled": "TensorRT-LLM, gpt-fast: the whole step is one graph",
    "engine": "vLLM, SGLang",
    "llama.cpp": "llama.cpp on a GPU",
    "eager": "transformers, litgpt, AutoAWQ: Python launches one kernel after the other",
    "bitsandbytes": "the same, and weights of 4 bits are unpacked by kernels of their own",
}
TRAINERS = {
    "torch": "torchtitan, torchtune, composer: PyTorch with FSDP, fused attention, mostly compiled",
    "megatron": "Megatron-LM, NeMo: kernels fused by hand",
    "eager": "transformers with peft and DeepSpeed",
}
# Fitted by benchmarks/fit_efficiency.py to the 180 speeds of measured.csv that can be predicted. Shares are of a data
# sheet's peak; seconds are for one layer and one pass, or one message; cycle bytes are what a multiprocessor takes in,
# in a cycle. Some rest on one row or two, and on the round number that the fit began with: "layer, bitsandbytes",
# "all-reduce, network", "link, slot", "training products, experts".
FITTED: Mapping[str, float] = {
    "stream": 0.78,
    "cycle bytes": 15,
    "cycle bytes, packed": 9.6,
    "cycle bytes, llama.cpp": 6.7,
    "layer, compiled": 5.7e-05,
    "layer, engine": 0.00011,
    "layer, llama.cpp": 8.1e-05,
    "layer, eager": 0.00048,
    "layer, bitsandbytes": 0.0015,
    "products, 16 bits": 0.71,
    "products, 8 bits": 0.52,
    "products, llama.cpp": 0.33,
    "cycle operations, llama.cpp": 660,
    "all-reduce": 7.5e-06,
    "all-reduce, network": 0.00041,  # from node to node, over a network whose latency no source gives
    "link, board": 0.45,  # share of the peak in one direction: NVLink and its like
    "link, slot": 0.28,  # PCI Express
    "link, network": 0.88,
    "training products": 0.69,
    "cycle operations, attention": 590,
    "training bytes, torch": 150,  # to and from memory for each of a token's d_model numbers, in a layer
    "training bytes, megatron": 150,
    "training bytes, eager": 460,
    "training layer, torch": 0.0028,
    "training layer, megatron": 0.00094,
    "training layer, eager": 0.0047,
    "training products, experts": 0.2,
    "cycle weights": 0.5,  # that a multiprocessor widens from 4 bits before a product, in a cycle
}
# Not fitted, as no row of training says that it ran over Ethernet: what all-reduces reached there, 39, 58 and 75% of
# the line by RoCE and 60% by EFA (rows D044 to D046 and D050 of measured.csv), in the middle.
ETHERNET_SHARE = 0.57
LIKE_TCP = "Slingshot 11 by TCP"
USUAL_HZ = 1.8e9  # of a card whose clock no source gives: between that of an A100 and an L40S
# A range goes from the fitted speed divided by this to that times this. With each source left out of the fit in turn,
# its speeds lay inside for 98% (decode, 47 rows), 87% (prefill, 15), 92% (serving, 36) and 94% (training, 82); a range
# of 1.25 either way would have held four in five of each. Other cards and programs may be farther off: so it is wider.
SPREAD = {"decode": 1.35, "prefill": 1.4, "serving": 1.4, "training": 1.4}


@dataclass(frozen=True)
class Share:
    """The share of a roofline's speed that is reached: from `low` to `high`, and on what this rests."""

    low: float
    high: float
    basis: str


def bytes_per_s(card: Accelerator, program: str, bits: float = 16, fitted: Mapping[str, float] = FITTED) -> float:
    """Bytes a second that a program fetches, of weights with `bits` bits.

    Raises:
        UnknownName: no such class of programs.
        UnknownFigure: no source gives the card's bandwidth.
    """
    kind, cycles = _program(program), _cycles(card)
    stream = fitted["stream"] * card.bytes_per_s.known()
    limit = "llama.cpp" if kind == "llama.cpp" else "packed" if bits < 8 else kind
    if cycles is None or limit == "compiled":
        return stream
    return min(stream, fitted.get(f"cycle bytes, {limit}", fitted["cycle bytes"]) * cycles)


def flops_per_s(card: Accelerator, program: str, number: str, fitted: Mapping[str, float] = FITTED) -> float:
    """Operations a second in products of large matrices of the format `number`; raises as `Accelerator.peak`."""
    peak, cycles = card.peak(number).known(), _cycles(card)
    if _program(program) != "llama.cpp":
        return peak * fitted["products, 8 bits" if find_dtype(number).bytes == 1 else "products, 16 bits"]
    reached = peak * fitted["products, llama.cpp"]
    return min(reached, fitted["cycle operations, llama.cpp"] * cycles) if cycles else reached


def layer_seconds(program: str, fitted: Mapping[str, float] = FITTED) -> float:
    """Seconds that a layer takes in a pass beside its bytes and products."""
    return fitted[f"layer, {_program(program)}"]


def unpacked_per_s(card: Accelerator, fitted: Mapping[str, float] = FITTED) -> float:
    """Weights a second that are widened from 4 bits, where products want them wide; infinite on a card unknown."""
    cycles = _cycles(card)
    return fitted["cycle weights"] * cycles if cycles else math.inf


def trainer(name: str) -> str:
    """The class of training programs called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, {each: each for each in TRAINERS}, "class of training programs")


def attention_flops_per_s(card: Accelerator, number: str, fitted: Mapping[str, float] = FITTED) -> float:
    """Operations a second of fused attention, forward and back; raises as `Accelerator.peak`."""
    reached, cycles = fitted["training products"] * card.peak(number).known(), _cycles(card)
    return min(reached, fitted["cycle operations, attention"] * cycles) if cycles else reached


def link_bytes_per_s(link: Link, fitted: Mapping[str, float] = FITTED) -> float:
    """Bytes a second that a rank sends in long messages; `UnknownFigure` where there is nobody to send to."""
    return link_share(link, fitted) * link.bytes_per_s.known()


def link_share(link: Link, fitted: Mapping[str, float] = FITTED) -> float:
    """The share of a link's peak that programs reach with it, beside all else that they do."""
    if "Ethernet" in link.name:
        return ETHERNET_SHARE
    kinds = {"InfiniBand": "network", "Slingshot": "network", "network": "network", "PCIe": "slot"}
    return fitted[f"link, {next((kind for word, kind in kinds.items() if word in link.name), 'board')}"]


def message_seconds(link: Link) -> float:
    """Of one message in a collective: as measured, else as over NVLink 3, or over Ethernet as by TCP: an assumption."""
    like = link if link.message_s.value else find_link(LIKE_TCP if "Ethernet" in link.name else "NVLink 3")
    return like.message_s.known()


def all_reduce_seconds(
    n_bytes: float, n_ranks: int, link: Link, nodes: int = 1, fitted: Mapping[str, float] = FITTED
) -> float:
    """An all-reduce of `n_bytes` among ranks: its latency, and what a ring sends over a rank's link."""
    if n_ranks == 1:
        return 0.0
    latency = fitted["all-reduce"]
    if nodes > 1:
        latency = (nodes - 1) * (link.latency_s.value or fitted["all-reduce, network"])
    return latency + sent_bytes("all-reduce", n_bytes, n_ranks) / link_bytes_per_s(link, fitted)


def _program(name: str) -> str:
    return look_up(name, {each: each for each in PROGRAMS}, "class of programs")


def _cycles(card: Accelerator) -> float | None:
    """Cycles a second of all multiprocessors; None where no source says how many there are."""
    n_sms = card.n_sms.value
    return n_sms and n_sms * (card.boost_hz.value or USUAL_HZ)
