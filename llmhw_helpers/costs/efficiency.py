"""How near real systems come to the roof: a few constants that explain what others measured, and the range they leave.

A step of decoding takes the time to fetch weights and caches, or to multiply, and besides for each layer a fixed time:
kernels are launched, and ranks wait for each other. So small models, and large ones divided among many GPUs, stay far
from the roof, whatever the program does. Two more things hold a GPU back. A multiprocessor takes in only so many bytes
in a cycle, fewer where it has to unpack weights of 4 bits: a card with much bandwidth for few multiprocessors does
not reach it. And products reach a part of the peak, a smaller part of a higher one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up

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
# Fitted by benchmarks/fit_efficiency.py to the rows of measured.csv. Shares are of a data sheet's peak; seconds are for
# one layer and one pass, or one message; cycle bytes are what a multiprocessor takes in, in a cycle.
FITTED: Mapping[str, float] = {
    "stream": 0.85,
    "cycle bytes": 10.6,
    "cycle bytes, packed": 6.6,
    "cycle bytes, llama.cpp": 6.3,
    "layer, compiled": 45e-6,
    "layer, engine": 95e-6,
    "layer, llama.cpp": 70e-6,
    "layer, eager": 480e-6,
    "layer, bitsandbytes": 1.4e-3,
    "products, 16 bits": 0.62,
    "products, 8 bits": 0.45,
    "products, llama.cpp": 0.4,
    "cycle operations, llama.cpp": 700.0,
    "all-reduce": 15e-6,
    "network step": 200e-6,
    "link": 150e9,  # B/s of a rank in an all-reduce within a node
    "network": 25e9,  # the same between nodes
    "training products": 0.7,
    "training attention": 0.5,
    "cycle operations, attention": 700.0,
    "training bytes, torch": 450.0,  # to and from memory for each of a token's d_model numbers, in a layer
    "training bytes, megatron": 250.0,
    "training bytes, eager": 700.0,
    "training layer, torch": 1e-3,
    "training layer, megatron": 1e-3,
    "training layer, eager": 4.5e-3,
    "unpacked": 75e9,  # weights a second that are widened from 4 bits before a product
}
USUAL_HZ = 1.8e9  # of a card whose clock no source gives: between that of an A100 and an L40S
SPREAD = {
    "decode": 1.3,
    "prefill": 1.4,
    "serving": 1.4,
    "training": 1.4,
}  # a range is the fitted speed divided by this, and times it


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
    kind = _program(program)
    stream = fitted["stream"] * card.bytes_per_s.known()
    limit = "cycle bytes, llama.cpp" if kind == "llama.cpp" else "cycle bytes" if bits >= 8 else "cycle bytes, packed"
    return min(stream, fitted[limit] * cycles) if (cycles := _cycles(card)) else stream


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


def trainer(name: str) -> str:
    """The class of training programs called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, {each: each for each in TRAINERS}, "class of training programs")


def attention_flops_per_s(card: Accelerator, number: str, fitted: Mapping[str, float] = FITTED) -> float:
    """Operations a second of fused attention, forward and back; raises as `Accelerator.peak`."""
    reached, cycles = fitted["training attention"] * card.peak(number).known(), _cycles(card)
    return min(reached, fitted["cycle operations, attention"] * cycles) if cycles else reached


def link_bytes_per_s(nodes: int = 1, fitted: Mapping[str, float] = FITTED) -> float:
    """Bytes a second that a rank sends, within a node or between several."""
    return fitted["link" if nodes == 1 else "network"]


def all_reduce_seconds(n_bytes: float, n_ranks: int, nodes: int = 1, fitted: Mapping[str, float] = FITTED) -> float:
    """An all-reduce of `n_bytes` among ranks: its latency, and ``2 (n - 1) / n`` of the bytes over a rank's link."""
    if n_ranks == 1:
        return 0.0
    latency = fitted["all-reduce"] if nodes == 1 else 2 * (nodes - 1) * fitted["network step"]
    return latency + 2 * (n_ranks - 1) / n_ranks * n_bytes / link_bytes_per_s(nodes, fitted)


def _program(name: str) -> str:
    return look_up(name, {each: each for each in PROGRAMS}, "class of programs")


def _cycles(card: Accelerator) -> float | None:
    """Cycles a second of all multiprocessors; None where no source says how many there are."""
    n_sms = card.n_sms.value
    return n_sms and n_sms * (card.boost_hz.value or USUAL_HZ)
