"""vLLM from release to release: what it tries out when it starts, which decides what is left for the cache.

Before it takes the cache, vLLM runs one step as large as any that will come, with so many tokens of so many texts, and
keeps free what that step took. Other figures that matter, and where each was read, stand with each release.
"""

from dataclasses import dataclass

from .figures import Figure

SOURCE = "vLLM, vllm/engine/arg_utils.py and vllm/config.py of the release"
SAMPLER = (
    "vLLM, vllm/v1/sample/ops/topk_topp_sampler.py: by FlashInfer where it is installed, which does not sort, else all"
    " logits are sorted; V0 sorts unless it is told otherwise"
)
LOGS = "vLLM start-up logs: what they print as non-torch memory, or lack where its parts are added up"
SORTED = f"{SAMPLER}; the bytes: fitted to start-up logs, which a sort meets within 2%"


@dataclass(frozen=True)
class Engine:
    """vLLM from release `since` on, until the next one here.

    Attributes:
        since: number of the release, major and minor: ``"0.11"``.
        n_tokens, n_tokens_large: tokens of the step that is tried, on cards below and from 70 GiB on (A100: as below).
        n_seqs, n_seqs_large: texts of that step, likewise.
        chunked_from: texts up to this length are read whole, in one step; longer ones in chunks of `n_tokens`. Zero:
            all in chunks.
        logit_bytes: memory that the sampler takes for one logit: least, usual, most.
        held: bytes of GPU memory that stand behind a byte of the step: least, usual, most. One where PyTorch's own
            counter is read; the first releases took what the card had lost, its allocator's gaps included.
        expands_latents: the cache holds keys and values of every head, as if there were no latent attention.
        keeps_absorbed: it keeps products of the latents' matrices beside them.
    """

    since: str
    n_tokens: Figure
    n_tokens_large: Figure
    n_seqs: Figure
    n_seqs_large: Figure
    chunked_from: Figure
    logit_bytes: tuple[Figure, Figure, Figure]
    held: tuple[Figure, Figure, Figure]
    expands_latents: bool
    keeps_absorbed: bool

    @property
    def name(self) -> str:
        """As people write it: ``"vLLM 0.11"``."""
        return f"vLLM {self.since}"

    @property
    def release(self) -> tuple[int, ...]:
        """Its number, to be compared: ``(0, 11)``."""
        return tuple(int(each) for each in self.since.split("."))


def _engine(
    minor: int,
    n_tokens: tuple[int, int],
    n_seqs: tuple[int, int],
    chunked_from: int,
    logit_bytes: tuple[int, int, int],
    held: tuple[float, float, float] = (1, 1, 1),
    expands_latents: bool = False,
    keeps_absorbed: bool = False,
) -> Engine:
    def figure(value: float, unit: str, meaning: str, source: str = SOURCE) -> Figure:
        return Figure(float(value), unit, meaning, source)

    tokens = "tokens of the step that is tried (max_num_batched_tokens of the server)"
    texts = "texts of the step that is tried (max_num_seqs of the server)"
    sampler = "memory for one logit at the sampler's fullest moment"
    return Engine(
        since=f"0.{minor}",
        n_tokens=figure(n_tokens[0], "token", tokens),
        n_tokens_large=figure(n_tokens[1], "token", f"{tokens}, 70 GiB and more, no A100"),
        n_seqs=figure(n_seqs[0], "", texts),
        n_seqs_large=figure(n_seqs[1], "", f"{texts}, 70 GiB and more, no A100"),
        chunked_from=figure(chunked_from, "token", "texts up to this length are read whole, in one step"),
        logit_bytes=tuple(figure(each, "B", sampler, SORTED) for each in logit_bytes),
        held=tuple(figure(each, "", "memory behind a byte of the step", LOGS) for each in held),
        expands_latents=expands_latents,
        keeps_absorbed=keeps_absorbed,
    )


_NEVER = 10**9
# V0 sorts the logits; V1 does where FlashInfer is not there: it was in the logs of 0.10, and was not in those of 0.11;
# later a kernel of vLLM's own does not sort (topk_topp_triton.py, in 0.20.1; from 0.17 on is a guess from one log)
_SORTS, _MAY_SORT, _OWN = (38, 38, 38), (10, 38, 38), (10, 14, 20)
_GAPS = (1, 4, 8)  # three logs: 1.2, 4 and 7
ENGINES = {
    engine.name: engine
    for engine in (
        _engine(2, (2560, 2560), (256, 256), _NEVER, _SORTS, _GAPS, expands_latents=True),
        _engine(3, (2048, 2048), (256, 256), _NEVER, _SORTS, _GAPS, expands_latents=True),
        _engine(5, (512, 512), (256, 256), 32768, _SORTS, expands_latents=True),
        _engine(6, (2048, 2048), (256, 256), 32768, _SORTS, expands_latents=True),
        _engine(7, (2048, 2048), (256, 256), 32768, _SORTS, keeps_absorbed=True),
        _engine(8, (2048, 8192), (256, 256), 0, _MAY_SORT),
        _engine(9, (2048, 8192), (256, 1024), 0, _MAY_SORT),
        _engine(10, (2048, 8192), (256, 1024), 0, (10, 10, 38)),
        _engine(11, (2048, 8192), (256, 1024), 0, _MAY_SORT),
        _engine(17, (2048, 8192), (256, 1024), 0, _OWN),
    )
}
V1_FROM, V1_ALONE_FROM = ENGINES["vLLM 0.8"], ENGINES["vLLM 0.11"]  # between them cards before Ampere stay with V0
# CUDA's and NCCL's own memory, by GPUs that work together: least, usual, most. Cards below 40 GB are joined by PCIe,
# and their ranks hold smaller buffers.
OUTSIDE, OUTSIDE_SMALL = (
    {
        n: tuple(
            Figure(gib * 2**30, "B", f"non-torch memory of a GPU of {n}, {what}", LOGS)
            for gib, what in zip(row, ("least", "usual", "most"), strict=True)
        )
        for n, row in table.items()
    }
    for table in (
        {1: (0.03, 0.13, 0.35), 2: (0.2, 0.5, 1.3), 4: (0.25, 0.9, 2.0), 8: (0.3, 1.9, 2.4)},
        {1: (0.01, 0.1, 0.35), 2: (0.1, 0.25, 0.6), 4: (0.1, 0.25, 0.8), 8: (0.1, 0.3, 1.0)},
    )
)
