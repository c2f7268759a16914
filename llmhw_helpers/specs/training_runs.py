"""What the training of published models took, as their reports say."""

from dataclasses import dataclass

from .figures import Figure, look_up


@dataclass(frozen=True)
class TrainingRun:
    """The pretraining of a model.

    Attributes:
        model: its name in `models`.
        n_tokens: that it was trained on, repetitions counted.
        seq_len: tokens in a sequence.
        gpu: that it ran on, by its name in `accelerators`; several kinds of a GPU under the one that the report names.
        gpu_hours: cards times hours, of pretraining alone.
        source: of what is not a `Figure`.
    """

    model: str
    n_tokens: Figure
    seq_len: int
    gpu: str
    gpu_hours: Figure
    source: str


_LLAMA_2 = "Llama 2 report, arXiv:2307.09288"
_SMOLLM_2 = "SmolLM2 report, arXiv:2502.02737, section 3: 2048 tokens in its training runs of the 1.7B model"
_HOURS = "cards times hours of pretraining"
TRAINING_RUNS = {
    run.model: run
    for run in (
        TrainingRun(
            model="Llama-2-7B",
            n_tokens=Figure(2.0e12, "", "tokens trained on, rounded", f"{_LLAMA_2}, table 1"),
            seq_len=4096,
            gpu="A100-80GB",
            gpu_hours=Figure(184_320.0, "h", _HOURS, f"{_LLAMA_2}, table 2"),
            source=_LLAMA_2,
        ),
        TrainingRun(
            model="SmolLM2-135M",
            n_tokens=Figure(2.0e12, "", "tokens trained on, rounded", "model card of HuggingFaceTB/SmolLM2-135M"),
            seq_len=2048,
            gpu="H100",
            gpu_hours=Figure(None, "h", f"{_HOURS}, SmolLM2-135M", "not in the report, nor on the model card"),
            source=_SMOLLM_2,
        ),
    )
}


def training_run(model: str) -> TrainingRun:
    """The run by the model's name.

    Raises:
        UnknownName: its training is not in the table.

    >>> training_run("Llama-2-7B").gpu_hours.known()
    184320.0
    """
    return look_up(model, TRAINING_RUNS, "training run")
