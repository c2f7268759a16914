"""What a pass takes, by what its time goes to: prompts read, tokens decoded, steps of training, on one or many GPUs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from ..specs.figures import look_up
from ..specs.flavours import Flavour
from ..specs.links import Link, node_link
from ..specs.links import link as find_link
from ..specs.serving_flavours import serving_flavour
from .collectives import Wire, path, two_levels
from .efficiency import (
    FITTED,
    all_reduce_seconds,
    attention_flops_per_s,
    bytes_per_s,
    flops_per_s,
    layer_seconds,
    link_bytes_per_s,
    link_share,
    message_seconds,
    trainer,
    unpacked_per_s,
)
from .inference import decode_work, kv_bytes, prefill_work
from .parallelism import layers_by_stage, part
from .pipelines import bubble_overhead
from .transformer import forward_flops
from .weights import weight_bytes, weights_read

# Between nodes, where nobody says what there is: 10 Gbit a second, an assumption.
UNNAMED = replace(find_link("10 Gbit Ethernet"), name="a network that nobody names")
FEW = 16  # tokens up to which kernels multiply with packed weights as they are, and memory alone counts
STAGE_BYTES_PER_S = 1e9  # from one stage to the next; little is sent, and it hardly matters
# An adapter for each GPU, as NVIDIA sells boards (data sheets of DGX A100, H100 and B200): taken for training on some
# nodes, if nobody says what connects them.
BOARD_NETWORKS = {"NVLink 3": "HDR InfiniBand", "NVLink 4": "NDR InfiniBand", "NVLink 5": "NDR InfiniBand"}


@dataclass(frozen=True)
class Duration:
    """Seconds that are likely, by what they go to, and the roofline's floor of them."""

    parts: Mapping[str, float]
    floor: float

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    def __mul__(self, times: float) -> "Duration":
        return Duration({name: times * second for name, second in self.parts.items()}, times * self.floor)

    def __add__(self, other: "Duration") -> "Duration":
        names = dict.fromkeys([*self.parts, *other.parts])
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return Duration(parts, self.floor + other.floor)


@dataclass(frozen=True)
class Serving:
    """A model in a program, on ranks of one kind of card: `costs.speed` says what the fields mean."""

    card: Accelerator
    model: Model
    flavour: str | Flavour = "bf16"
    tp_size: int = 1
    pp_size: int = 1
    nodes: int = 1
    program: str = "engine"
    kv_dtype: str = "bf16"
    network: Link | None = None
    fitted: Mapping[str, float] = field(default_factory=lambda: FITTED)

    def __post_init__(self):
        _require(self, "nodes")
        layers_by_stage(self.model.n_layers, self.pp_size)

    def decode(self, batch_size: int, context: int) -> Duration:
        """One new token for each of `batch_size` texts, through all stages."""
        rank = part(self.model, self.tp_size)
        flops = decode_work(rank, batch_size, context).flops
        return self._pass(rank, flops, batch_size, batch_size * kv_bytes(rank, context, self.kv_dtype))

    def prefill(self, batch_size: int, prompt: int) -> Duration:
        """Reading `batch_size` prompts at once, through all stages."""
        rank = part(self.model, self.tp_size)
        flops = prefill_work(rank, batch_size, prompt).flops
        return self._pass(rank, flops, batch_size * prompt, batch_size * kv_bytes(rank, prompt, self.kv_dtype))

    def _pass(self, rank: Model, flops: float, n_tokens: int, cache: float) -> Duration:
        of = self.flavour if isinstance(self.flavour, Flavour) else serving_flavour(self.flavour)
        weights, number = weights_read(rank, of, n_tokens), multiplied_in(self.card, of)
        bits = 8 * weight_bytes(self.model, of) / self.model.n_params
        fetch = weights / bytes_per_s(self.card, self.program, bits, self.fitted)
        if self.card.peak(number).value is None and n_tokens <= FEW:
            flops = 0.0  # products of a few tokens take next to no time: an unknown rate is no reason to say nothing
        products = flops and flops / flops_per_s(self.card, self.program, number, self.fitted)
        widened = bits < 8 and n_tokens > FEW and self.program in ("eager", "bitsandbytes")
        link = node_link(self.card.name) if self.nodes == 1 else self.network or UNNAMED
        stream = 2 * n_tokens * rank.d_model
        between = all_reduce_seconds(stream, self.tp_size, link, self.nodes, self.fitted)
        parts = _overlap({"weights": fetch}, {"products": products}) | {
            "cache": cache / bytes_per_s(self.card, self.program, fitted=self.fitted),
            "layers": rank.n_layers * layer_seconds(self.program, self.fitted),
            "all-reduces": 2 * rank.n_layers * between,
            "unpacking": rank.n_params / unpacked_per_s(self.card, self.fitted) if widened else 0.0,
            "stages": (self.pp_size - 1) * (self.fitted["all-reduce"] + stream / STAGE_BYTES_PER_S),
        }
        roof = self.card.bytes_per_s.known()
        return Duration(parts, max((weights + cache) / roof, flops and flops / self.card.peak(number).known()))


def multiplied_in(card: Accelerator, of: Flavour) -> str:
    """The format that a card multiplies a flavour in: its own where the card has it, else 16 or 32 bits.

    Raises:
        UnsupportedDtype: it has none of them.
    """
    numbers = (of.number, "bf16", "fp16", "fp32")
    return next((number for number in numbers if number in card.dtypes), "fp32")


BF16 = serving_flavour("bf16")
AGAIN = {"none": 0.0, "selective": 0.0, "full": 1.0}  # share of the blocks' products that is computed again


@dataclass(frozen=True)
class Training:
    """A step of training, or of fine-tuning with adapters: `costs.speed` says what the fields mean."""

    card: Accelerator
    model: Model
    seq_len: int
    dtype: str = "bf16"
    recompute: str | float = "none"
    batch_size: int = 1
    dp_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    zero: int = 3
    n_micro_batches: int = 1
    nodes: int = 1
    network: Link | None = None
    network_bytes_per_s: float | None = None
    n_chunks: int = 1
    adapters: bool = False
    packed: bool = False
    program: str = "torch"
    fitted: Mapping[str, float] = field(default_factory=lambda: FITTED)

    def __post_init__(self):
        _require(self, "batch_size", "dp_size", "n_micro_batches", "nodes", "n_chunks")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"ZeRO has the stages 0 to 3, not {self.zero}")
        if not 0 <= self.again <= 1:
            raise ValueError(f"a share from 0 to 1 is recomputed, not {self.again}")
        part(self.model, self.tp_size)
        layers_by_stage(self.model.n_layers, self.pp_size)

    def micro_batch(self) -> Duration:
        """`batch_size` sequences through the ranks that share a model, forward and back.

        Of a pipeline the slowest stage sets the pace: one that has a layer more, or the last one, with the head.
        """
        each = layers_by_stage(self.model.n_layers, self.pp_size)
        stages = [self._stage(max(each), self.pp_size == 1), self._stage(each[-1], True)]
        return max(stages, key=lambda stage: stage.seconds)

    def _stage(self, layers: int, has_head: bool) -> Duration:
        fitted, model, kind = self.fitted, self.model, trainer(self.program)
        n_tokens, share = self.batch_size * self.seq_len, layers / self.model.n_layers / self.tp_size
        flops = forward_flops(model, self.batch_size, self.seq_len)
        pairs, head = flops.pop("attention") / 2, flops.pop("head")  # kernels skip the pairs that a mask hides
        passes = 2 if self.adapters else 3  # nobody asks for the gradients of frozen weights
        experts = share * (passes + self.again) * flops.pop("experts", 0)
        blocks = share * (passes + self.again) * sum(flops.values())
        head *= passes * has_head / self.tp_size
        pairs *= share * (3 + self.again)
        half = multiplied_in(self.card, BF16)
        peak, half_peak = (self.card.peak(number).known() for number in (self.dtype, half))
        moved = fitted[f"training bytes, {kind}"] * model.d_model * n_tokens * (1 + self.again / 3)
        busy = {
            "products": (blocks / peak + head / half_peak) / fitted["training products"],
            "experts": experts / peak / fitted["training products, experts"],
            "attention": pairs / attention_flops_per_s(self.card, half, fitted),
            "memory": layers * moved / self.tp_size / bytes_per_s(self.card, "engine", fitted=fitted),
            "all-reduces": (4 + 2 * self.again) * layers * self._all_reduce(2 * n_tokens * model.d_model),
        }
        if self.packed:
            busy["unpacking"] = (2 + self.again) * share * model.n_params / unpacked_per_s(self.card, fitted)
        waits = {
            "layers": layers * fitted[f"training layer, {kind}"],
            "weights": self._weights(),
            "stages": self._stages(2 * n_tokens * model.d_model),
        }
        parts = _overlap(busy, waits)
        parts["bubble"] = bubble_overhead(self.pp_size, self.n_micro_batches, self.n_chunks) * sum(parts.values())
        return Duration(parts, (blocks + experts + pairs + head) / peak)

    def _all_reduce(self, stream: float) -> float:
        """Seconds in which tensor parallel ranks add up what lies between two halves of a block."""
        board, nodes = node_link(self.card.name), -(-self.tp_size // self._per_node)
        if nodes <= 1:
            return all_reduce_seconds(stream, self.tp_size, board, fitted=self.fitted)
        inside = Wire(0.0, link_bytes_per_s(board, self.fitted)) if self._per_node > 1 else Wire(0.0, math.inf)
        between = Wire(message_seconds(self._network), self._network_bytes_per_s)
        return self.fitted["all-reduce"] + two_levels("all-reduce", stream, self._per_node, nodes, inside, between)

    def _weights(self) -> float:
        """Seconds of sending weights and gradients among the ranks of data parallelism, for one micro-batch."""
        if self.dp_size == 1:
            return 0.0
        all_ranks = self.model.n_params - self.model.parameters().get("experts", 0)  # each expert is at home on a few
        layers = self.model.n_layers / self.pp_size
        layer = 2 * all_ranks / self.tp_size / self.pp_size / layers
        if self.zero == 3:  # gathered for the forward and for the backward pass, gradients scattered
            messages, sent = path("all-gather", layer, self.dp_size)
            times = 2 if self.adapters else 3
        else:  # gradients summed, or scattered and new weights gathered: the same bytes, once a step
            messages, sent = path("all-reduce", layer, self.dp_size)
            times = 0 if self.adapters else 1 / self.n_micro_batches
            if self.zero == 2:  # no rank has room for all gradients: they are scattered after each micro-batch
                times = (times + bool(times)) / 2
        board = node_link(self.card.name)
        latency, rate = message_seconds(board), link_bytes_per_s(board, self.fitted)
        if self.tp_size * self.dp_size > self._per_node:  # over nodes: what one wants comes in once, for all its copies
            latency = message_seconds(self._network)
            rate = min(rate, self._network_bytes_per_s / min(self._per_node, self.tp_size))
        return times * layers * (messages * latency + sent / rate)

    def _stages(self, stream: float) -> float:
        """Seconds in which a stage sends a micro-batch on, and its gradients back, cut among the ranks of a layer.

        Stages are the outermost division (as in Megatron-LM and torchtitan): the next one is on another node wherever
        there are several, and a node's ranks send at the same time.
        """
        if self.pp_size == 1:
            return 0.0
        board = node_link(self.card.name)
        wire = Wire(message_seconds(board), link_bytes_per_s(board, self.fitted))
        if self.nodes > 1:
            at_once = min(self._per_node, self.tp_size * self.dp_size)
            wire = Wire(message_seconds(self._network), self._network_bytes_per_s / at_once)
        return 2 * self.n_chunks * wire.seconds(stream / self.tp_size)

    @property
    def _per_node(self) -> int:
        return max(1, self.dp_size * self.tp_size * self.pp_size // self.nodes)

    @property
    def _network(self) -> Link:
        if self.network:
            return self.network
        usual = BOARD_NETWORKS.get(node_link(self.card.name).name)
        return find_link(usual) if usual else UNNAMED

    @property
    def _network_bytes_per_s(self) -> float:
        """What a node sends to others: an adapter for each GPU, unless somebody says what there is."""
        nominal = self.network_bytes_per_s or self._per_node * self._network.bytes_per_s.known()
        return link_share(self._network, self.fitted) * nominal

    @property
    def again(self) -> float:
        """Share of the blocks' products that is computed a second time."""
        return self.recompute if isinstance(self.recompute, float) else look_up(self.recompute, AGAIN, "recomputation")


def _require(job: object, *names: str) -> None:
    for name in names:
        if getattr(job, name) < 1:
            raise ValueError(f"{name} is at least 1, not {getattr(job, name)}")


def _overlap(busy: Mapping[str, float], waits: Mapping[str, float]) -> dict[str, float]:
    """Parts of what goes on at the same time: together as long as the hypotenuse, shortened in proportion."""
    one, each = sum(busy.values()), sum(waits.values())
    shorter = math.hypot(one, each) / (one + each)
    return {name: shorter * second for name, second in {**busy, **waits}.items()}
