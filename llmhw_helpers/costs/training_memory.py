"""The memory of training on many GPUs: what one rank holds at its fullest moment.

Three ways to divide, and they combine. Data-parallel ranks hold the same numbers, so each may keep a share of them:
of the optimizer's states (ZeRO 1), of the gradients, too (2), and of the parameters (3; ZeRO: arXiv:1910.02054).
Tensor parallelism divides every matrix of a block, and pipeline parallelism the blocks: there a rank's part is another,
smaller model (`costs.parallelism`). As on one GPU, the peak is the largest of the phases, never their sum.
"""

from dataclasses import dataclass, replace

from ..specs.architectures import Model, NoFormula
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up
from .activations import block_kept, blocks_kept, last_operations
from .backward import Gradients, Phase, fullest, units
from .lora import NF4_BITS, LoRA, finetuning_bytes, lora_moments, n_trainable
from .memory import BATCH_BYTES, FP32, Recipe, copies, temporaries
from .operations import Pass
from .parallelism import layers_by_stage, part
from .parameters import n_tensors, parameter_sizes

# One kernel updates all, without temporaries. SHARDED is FSDP2's mixed precision: parameters in fp32, gathered in bf16.
MIXED = Recipe(implementation="fused")
SHARDED = Recipe(parameter_dtype="fp32", gradient_dtype="fp32", master_dtype=None, implementation="fused")
WIDE_BYTES = 4  # the loss is computed in fp32
SCHEDULES = {"1F1B": "1F1B", "GPipe": "GPipe"}


@dataclass(frozen=True)
class Layout:
    """How the ranks divide the work.

    Attributes:
        dp_size: data-parallel ranks, each with sequences of its own. Alone, a rank has nobody to share with.
        tp_size, pp_size: ranks that divide every layer; stages that divide the layers.
        zero: what data-parallel ranks share: 0 nothing, 1 states, 2 gradients as well, 3 parameters as well. 2 and 3
            are also FSDP2's ``fully_shard`` with ``reshard_after_forward`` False and True.
        sequence_parallel: tensor-parallel ranks share, by tokens, what lies between the blocks (arXiv:2205.05198).
        loss_parallel: the logits stay divided by words among them; else each makes all of them.
        n_micro_batches: passes over a batch before the optimizer steps.
        schedule: of a pipeline: ``"1F1B"`` holds at most ``pp_size - stage`` micro-batches, ``"GPipe"`` all.
    """

    dp_size: int = 1
    tp_size: int = 1
    pp_size: int = 1
    zero: int = 0
    sequence_parallel: bool = True
    loss_parallel: bool = True
    n_micro_batches: int = 1
    schedule: str = "1F1B"

    def __post_init__(self):
        if min(self.dp_size, self.tp_size, self.pp_size, self.n_micro_batches) < 1:
            raise ValueError(f"sizes and micro-batches of a layout are at least 1: {self}")
        if self.zero not in range(4):
            raise ValueError(f"ZeRO has the stages 0, 1, 2 and 3, not {self.zero}")
        look_up(self.schedule, SCHEDULES, "pipeline schedule")

    @property
    def n_gpus(self) -> int:
        """Ranks in all."""
        return self.dp_size * self.tp_size * self.pp_size

    def in_flight(self, stage: int) -> int:
        """Micro-batches whose activations a stage holds at once."""
        waiting = self.n_micro_batches if self.schedule == "GPipe" else self.pp_size - stage
        return min(self.n_micro_batches, waiting) if self.pp_size > 1 else 1


def rank_peak(model: Model, run: Pass, recipe: Recipe, layout: Layout, stage: int | None = None) -> Phase:
    """The fullest phase of the fullest rank: what has to fit on every GPU.

    >>> from llmhw_helpers.specs.models import model
    >>> llama, run = model("Llama-3.1-70B"), Pass(1, 8192, recompute="full")
    >>> top = rank_peak(llama, run, MIXED, Layout(dp_size=8, tp_size=8, zero=3))
    >>> top.name, round(top.bytes / 1e9, 1), max(top.parts, key=top.parts.get)
    ('backward', 20.9, 'optimizer')
    """
    stages = _fullest_stages(layout, model.n_layers) if stage is None else [stage]
    tops = [max(rank_phases(model, run, recipe, layout, i), key=lambda phase: phase.bytes) for i in stages]
    return max(tops, key=lambda phase: phase.bytes)


def rank_phases(model: Model, run: Pass, recipe: Recipe, layout: Layout, stage: int = 0) -> list[Phase]:
    """The phases of a training step on one rank, each at its fullest, in bytes by part.

    Parts: ``weights`` (the rank's own, or its share), ``gradients`` (settled ones, those of a block at work, and a copy
    that is being reduced), ``optimizer`` (states and master copy), ``activations``, ``gathered`` (parameters of other
    ranks, for a while), ``working`` (gradients of activations, logits, the optimizer's temporaries), ``batch``.

    Parameters in another format than the activations are FSDP2's mixed precision: shares in the one, gathered in the
    other, gradients made in the other and reduced in `Recipe.gradient_dtype`; that takes ZeRO 2 or 3.

    Args:
        model: of a kind that `costs.activations` knows.
        run: what one data-parallel rank computes at once: a micro-batch.
        recipe: optimizer and formats.
        layout: of all ranks.
        stage: of the pipeline.

    Raises:
        NoFormula: another kind of model.
        Indivisible: heads, widths or layers that do not divide.
        ValueError: mixed precision without ZeRO 2 or 3.
    """
    rank = _Rank(model, run, recipe, layout, stage)
    return [rank.forward(), rank.backward(), rank.step()]


class _Rank:
    """One rank of a stage: its part of the model, and what it holds of that."""

    def __init__(self, model: Model, run: Pass, recipe: Recipe, layout: Layout, stage: int):
        mixed = find_dtype(run.activation_dtype) != find_dtype(recipe.parameter_dtype)
        self.zero, self.in_pipeline = layout.zero if layout.dp_size > 1 else 0, layout.pp_size > 1
        if mixed and self.zero < 2:
            raise ValueError(
                f"{recipe.parameter_dtype} parameters and {run.activation_dtype} activations: no formula for autocast;"
                " FSDP2's mixed precision takes zero=2 or 3, and dp_size above 1"
            )
        self.layout, self.recipe = layout, recipe
        self.part = part(model, layout.tp_size, layout.pp_size, stage)
        self.run = replace(
            run,
            stream_ranks=layout.tp_size if layout.sequence_parallel else 1,
            vocab_ranks=layout.tp_size,
            loss_parallel=layout.loss_parallel,
        )
        self.first, self.last = stage == 0, stage == layout.pp_size - 1
        self.in_flight = layout.in_flight(stage)
        # what the walk goes through: a stage has no tied head, since the two matrices are in different stages
        self.walked = replace(self.part, tied_embeddings=model.tied_embeddings and not self.in_pipeline)
        self.walk = units(self.walked, self.run, self.first, self.last)
        self.around = [unit for unit in self.walk if unit.layer is None]
        self.n_around = sum(unit.n_params for unit in self.around)
        blocks = [unit.n_params for unit in self.walk if unit.layer is not None]  # backwards
        self.first_block, self.last_block = blocks[-1], blocks[0]
        self.rule = self._rule(mixed)
        self.held = self._held(mixed)

    def _rule(self, mixed: bool) -> Gradients:
        recipe, run = self.recipe, self.run
        made, reduced = (int(find_dtype(name).bytes) for name in (run.activation_dtype, recipe.gradient_dtype))
        settled = int(find_dtype(recipe.parameter_dtype).bytes) if mixed else reduced
        shared = self.zero >= 2 and not self.in_pipeline  # a pipeline shares them once, when all micro-batches are done
        gathers = self.zero == 3 or (mixed and self.zero == 2)
        return Gradients(
            made=made if mixed else reduced,
            settled=settled if shared else reduced,
            exist=self.layout.n_micro_batches > 1,
            n_ranks=self.layout.dp_size if shared else 1,
            reduced=reduced if shared else 0,
            gathered=made if gathers else 0,
            stay=self.zero == 2 or self.in_pipeline,
        )

    def _held(self, mixed: bool) -> dict[str, int]:
        """Copies by part, divided as ZeRO says; ``gradients`` are those that the optimizer finds."""
        recipe = replace(self.recipe, gradient_dtype=self.recipe.parameter_dtype) if mixed else self.recipe
        self.n_params = sum(parameter_sizes(self.part))
        each = copies(self.n_params, recipe, n_tensors(self.part))
        n, zero = self.layout.dp_size, self.zero
        weights, gradients, counters = each.pop("parameters"), each.pop("gradients"), each.pop("step", 0)
        self.gradients = _share(gradients, n if zero >= 2 else 1)
        return {
            "weights": _share(weights, n if zero == 3 or mixed else 1),
            "gradients": 0,
            "optimizer": _share(sum(each.values()), n if zero else 1) + counters,  # a piece of each tensor has one, too
            "batch": BATCH_BYTES * self.run.n_tokens * self.layout.n_micro_batches,
        }

    def kept(self) -> int:
        """Activations of a micro-batch whose forward pass is done; a stage keeps what it has sent on, too."""
        around = sum(o.kept for unit in self.around for o in unit.operations)
        sent = 0 if self.last else self.part.d_model * self.run.number_bytes * self.run.stream.n_tokens
        return blocks_kept(self.walked, self.run) + around + sent

    def forward(self) -> Phase:
        """Fullest at the loss or, in a stage that has none, at its end; or where parameters are gathered."""
        last = last_operations(self.walked, self.run) if self.last else []
        logits = max((o.kept for o in last), default=0) * (2 if self._divides_loss() else 1)
        loss = "loss" if self.last else "output", logits, self.in_flight * self.kept()
        moments = [(*loss, self.n_params if self.rule.stay else self.n_around)]
        if self.rule.gathered and not self.in_pipeline:
            # parameters as they were received are let go when those of the next block are in their places
            h = self.part.d_model * self.run.number_bytes * self.run.stream.n_tokens
            before = blocks_kept(self.walked, self.run) - block_kept(self.walked, self.run, self.part.n_layers - 1)
            others = self.n_params - self.last_block if self.rule.stay else self.n_around
            moments += [
                ("first block, all-gather", h, 0, 2 * (self.n_around + self.first_block)),
                ("last block, down", 2 * h, blocks_kept(self.walked, self.run), others + 2 * self.last_block),
                ("last block, all-gather", h, before, others + 3 * self.last_block),
            ]
        gradients = self.rule.share(self.n_params) if self.rule.exist else 0
        phases = []
        for at, working, kept, n_gathered in moments:
            parts = {"gradients": gradients, "activations": kept, "working": working}
            parts["gathered"] = n_gathered * self.rule.gathered
            phases.append(Phase("forward", self.held | parts, at))
        return max(phases, key=lambda phase: phase.bytes)

    def _divides_loss(self) -> bool:
        return self.layout.loss_parallel and self.layout.tp_size > 1

    def backward(self) -> Phase:
        """The walk through one micro-batch, while others in flight keep what they keep."""
        return fullest(self.walk, self.held, self.in_flight * self.kept(), self.rule)

    def step(self) -> Phase:
        """All gradients, and what the optimizer makes for itself."""
        n_ranks = self.layout.dp_size if self.zero else 1
        own = {"gradients": self.gradients, "activations": 0, "working": temporaries(self.part, self.recipe, n_ranks)}
        return Phase("step", self.held | own, "optimizer")


def _share(n_bytes: int, n_ranks: int) -> int:
    return -(-n_bytes // n_ranks)


def _fullest_stages(layout: Layout, n_layers: int) -> list[int]:
    """Stages that may be the fullest: both ends, and the first of those between that have the most layers."""
    layers = layers_by_stage(n_layers, layout.pp_size)
    between = range(1, layout.pp_size - 1)
    return sorted({0, layout.pp_size - 1, max(between, key=lambda stage: (layers[stage], -stage), default=0)})


def lora_rank_peak(
    model: Model,
    run: Pass,
    lora: LoRA,
    base: str = "bf16",
    layout: Layout = Layout(),
    n_labelled: int | None = None,
    recipe: Recipe = FP32,
) -> Phase:
    """The fullest moment of fine-tuning adapters, on one rank; parts as in `rank_phases`.

    At the loss it is `lora.finetuning_bytes` with PyTorch's own cross-entropy in place of the course's leaner one.

    Args:
        model, run, lora, base, recipe: as `lora.finetuning_bytes` takes them; `run` is a micro-batch.
        layout: of all ranks; ``zero=3`` shares the frozen weights, too. Pipelines have no formula here.
        n_labelled: positions that the loss asks for; all without.

    Raises:
        NoFormula, BadLoRA, UnknownName, Indivisible: as there, and in `costs.parallelism`.

    >>> from llmhw_helpers.specs.models import model
    >>> run, lora = Pass(1, 2048, recompute="full"), LoRA(16)
    >>> [round(lora_rank_peak(model("Llama-3.1-8B"), run, lora, base).bytes / 1e9, 1) for base in ("bf16", "nf4")]
    [19.9, 9.7]
    """
    if layout.pp_size > 1:
        raise NoFormula("no formula for adapters in a pipeline: divide with tp_size and zero=3")
    mine = part(model, layout.tp_size)
    n_labelled = run.n_tokens if n_labelled is None else n_labelled
    held = finetuning_bytes(mine, run, lora, n_labelled, base, recipe)
    each = copies(n_trainable(mine, lora), recipe, 2 * len(lora.targets) * mine.n_layers)
    gradients, trained = each.pop("gradients"), each.pop("parameters")
    n, zero = layout.dp_size, layout.zero if layout.dp_size > 1 else 0
    block, around = _frozen_bytes(mine, base)
    moments = lora_moments(mine, run, lora, n_labelled)
    matrix = held["working"] - max(moments.values(), key=sum)[1]  # of a quantised base, the one at hand in 16 bits
    kept, _ = moments["loss"]
    moments["loss"] = kept, 2 * WIDE_BYTES * n_labelled * mine.vocab_size  # PyTorch's own loss makes two gradients
    phases = []
    for at, (activations, working) in moments.items():
        gathered = (around + (0 if at == "loss" else 2 * block)) if zero == 3 else 0  # a block, and the next
        parts = {
            "weights": _share(held["weights"] + trained, n if zero == 3 else 1),
            "gradients": _share(gradients, n if zero >= 2 else 1),
            "optimizer": _share(sum(each.values()), n if zero else 1),
            "activations": activations,
            "gathered": gathered,
            "working": working + matrix,
            "batch": BATCH_BYTES * run.n_tokens * layout.n_micro_batches,
        }
        phases.append(Phase("backward", parts, at))
    return max(phases, key=lambda phase: phase.bytes)


def _frozen_bytes(model: Model, base: str) -> tuple[int, int]:
    """Frozen weights of a block as they are gathered, and of all around the blocks."""
    number = 2 if base.lower() == "nf4" else int(find_dtype(base).bytes)
    matrices = sum(n_out * n_in for n_out, n_in in model.matrices().values())
    block = round(matrices * NF4_BITS / 8) if base.lower() == "nf4" else matrices * number
    return block, (model.n_params - model.n_layers * matrices) * number
