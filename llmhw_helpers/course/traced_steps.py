"""Steps to look at in a trace: of training, as in notebook 05, and of decoding, as in notebook 07.

Training may be made sick on purpose: a loader that is late with each batch, or a program that looks at every weight in
every step. As a program, for Nsight Systems and Nsight Compute (``ondemand/profile.slurm``)::

    python -m llmhw_helpers.course.traced_steps [starved | asking]
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..llm.checkpoints import load_model
from ..llm.markov import MarkovSource
from ..llm.training import Plan, Trainer, next_token_loss
from ..llm.transformer import Transformer
from ..measure.ranges import named
from ..measure.trace_files import recorded
from ..measure.traces import Trace
from ..serving.decoding import decode, new_cache, prefill
from ..serving.weights import Served
from ..specs.architectures import Model
from ..specs.figures import look_up

LEARNER = Model(
    name="learner",
    n_layers=2,
    d_model=192,
    n_heads=4,
    n_kv_heads=4,
    head_dim=48,
    d_ff=576,
    vocab_size=16,
    tied_embeddings=True,
    context_length=256,
    rope_theta=1e4,
    source="made for notebook 05",
)
SEQUENCES, SEQ_LEN, BATCH_SIZE, N_WARMUP, N_STEPS = 256, 64, 16, 3, 10
LATE = 2.0  # healthy steps that a starved run's loader takes for a batch
SICKNESSES = {
    "healthy": "nothing is changed",
    "starved": "each batch takes the loader as long as two healthy steps",
    "asking": "in every step the program asks of every weight whether it is finite, with .item()",
}


class TracedTrainer:
    """Notebook 05's small model and trainer, healthy or sick, some steps on its way.

    Args:
        kind: of `SICKNESSES`.
        device: where it trains.

    Attributes:
        trainer: of ``llm.training``; `N_WARMUP` steps are done.
        late_s: seconds that the loader takes for each further batch.

    Raises:
        UnknownName: another kind; the message names the nearest.
    """

    def __init__(self, kind: str = "healthy", device: torch.device | str = "cpu"):
        kind = look_up(kind, {each: each for each in SICKNESSES}, "sickness")
        source = MarkovSource.random(LEARNER.vocab_size, 2, 3, seed=0)
        self._text = torch.from_numpy(source.sample(SEQUENCES, SEQ_LEN + 1, seed=1))
        self.late_s = 0.0
        torch.manual_seed(0)
        loss = _asking_loss if kind == "asking" else next_token_loss
        self.trainer = Trainer(Transformer(LEARNER).to(device), self._fetch, Plan(10_000), loss)
        for _ in range(N_WARMUP):
            start = time.perf_counter()
            self.trainer.run(1, depth=0)
        if kind == "starved":
            self.late_s = LATE * (time.perf_counter() - start)  # the last step, when all is warm

    def _fetch(self, i: int) -> Tensor:
        time.sleep(self.late_s)
        return self._text[np.random.default_rng((0, i)).integers(0, SEQUENCES, BATCH_SIZE)]


def _asking_loss(model: Transformer, batch: Tensor, recompute: bool = False) -> Tensor:
    if not all(weight.isfinite().all().item() for weight in model.parameters()):
        raise ValueError("a weight is infinite, or no number")
    return next_token_loss(model, batch, recompute)


def trace_training(path: str | Path, kind: str = "healthy", n_steps: int = 3, device="cpu") -> Trace:
    """Train `n_steps` of a `TracedTrainer`, recorded in the file `path`.

    Raises:
        UnknownName: a kind that is not in `SICKNESSES`.
        NotSaved: no space, no permission.
    """
    traced = TracedTrainer(kind, device)
    with recorded(path):
        traced.trainer.run(n_steps)
    return Trace.read(path)


def trace_decoding(path: str | Path, n_tokens: int = 3, n_before: int = 128, served: Served | None = None) -> Trace:
    """Decode `n_tokens` after `n_before`, each a range named ``decode``, recorded in the file `path`.

    Args:
        path: of the trace.
        n_tokens: steps, one text.
        n_before: tokens that are in the cache already.
        served: the model; SmolLM2-135M on the processor where none is given, and PyTorch decodes.

    Raises:
        NotSaved: no space, no permission.
    """
    served = served or Served(load_model(), compiled=False)
    cache = new_cache(served, 1, n_before + 1 + n_tokens)
    prefill(served, [[7] * n_before], cache)
    token = torch.tensor([7], device=served.device)
    decode(served, token, cache)  # the first one prepares what the others find
    with recorded(path):
        for _ in range(n_tokens):
            with named("decode"):
                token = decode(served, token, cache).argmax(-1)
    return Trace.read(path)


def main(arguments: list[str] | None = None) -> None:
    """Train some steps, on the GPU if there is one and with CUDA's profiler switched on for the last `N_STEPS`."""
    parser = argparse.ArgumentParser(prog="traced_steps", description="Training steps for a profiler to look at.")
    parser.add_argument("kind", nargs="?", default="healthy", choices=SICKNESSES)
    kind, on_gpu = parser.parse_args(arguments).kind, torch.cuda.is_available()
    trainer = TracedTrainer(kind, "cuda" if on_gpu else "cpu").trainer
    with torch.cuda.profiler.profile() if on_gpu else nullcontext():
        trainer.run(N_STEPS)
    print(f"{kind}: {N_STEPS} steps on the {'GPU' if on_gpu else 'processor'}, the loss is {trainer.losses[-1]:.3f}")


if __name__ == "__main__":
    main()
