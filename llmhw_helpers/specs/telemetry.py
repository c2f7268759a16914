"""Busy and working, as others published them: GPUs that nvidia-smi shows at 97 to 100%, and what they got done.

NVML's utilization is the share of time in which one or more kernels ran (NVML's API reference, ``nvmlUtilization_t``).
"""

from dataclasses import dataclass

from .figures import Figure, look_up


@dataclass(frozen=True)
class Sighting:
    """GPUs that somebody watched, both ways.

    Attributes:
        name: of what ran.
        gpu: that it ran on, by its name in `accelerators`; None where that is not told.
        busy: NVML's utilization, a share.
        working: what was used of what the GPU can do, a share; its meaning says of what.
        rate: what came out a second; None where nothing was counted.
    """

    name: str
    gpu: str | None
    busy: Figure
    working: Figure
    rate: Figure | None = None


_NVML = "utilization by NVML: share of the time in which a kernel ran"
_SYSTALYZE = "Systalyze, 'Your GPU dashboard is lying to you', systalyze.com/utilyze, April 2026"
_TRAINY = "Trainy, 'GPU utilization is a misleading metric', trainy.ai/blog/gpu-utilization-misleading, 2024"
_ACME = "Hu et al., 'Characterization of LLM development in the datacenter', NSDI 2024, arXiv:2403.07648"
_INGERO = "Ingero, 'GPU utilization is a counter, not a cause', dev.to/ingero, 2026"


def _product(n: int, share: float, products_per_s: float | None) -> Sighting:
    return Sighting(
        name=f"products of {n} x {n}",
        gpu="H200",
        busy=Figure(1.00, "", f"{_NVML}, as nvtop shows it", _SYSTALYZE),
        working=Figure(
            share, "", "operations per second over the peak in tf32 (dense, at the clock it ran at)", _SYSTALYZE
        ),
        rate=Figure(products_per_s, "1/s", "square products, one after the other", _SYSTALYZE),
    )


def _cluster(name: str, busy: float) -> Sighting:
    return Sighting(
        name=f"{name}, a cluster that trains LLMs",
        gpu="A100-80GB",
        busy=Figure(busy, "", f"{_NVML}, median over GPUs and six months", f"{_ACME}, section 3.1"),
        working=Figure(
            0.40, "", "SM activity: share of multiprocessors with work, median, rounded", f"{_ACME}, section 3.3"
        ),
    )


def _serving(name: str, tokens_per_s: float) -> Sighting:
    return Sighting(
        name=f"vLLM with Qwen2.5-0.5B, {name}",
        gpu="RTX 4090",
        busy=Figure(0.97, "", f"{_NVML}, mean of eight minutes, never below 0.90", _INGERO),
        working=Figure(None, "", f"share of the peak, vLLM {name}", "not published; it follows from the rate"),
        rate=Figure(tokens_per_s, "tokens/s", "of all requests together", _INGERO),
    )


TELEMETRY = {
    sighting.name: sighting
    for sighting in (
        _product(256, 0.01, 155_349.0),
        _product(1024, 0.32, None),
        _product(4096, 0.86, None),
        Sighting(
            name="an LLM's training before it was tuned",
            gpu=None,
            busy=Figure(1.00, "", _NVML, _TRAINY),
            working=Figure(
                0.20, "", "MFU, rounded; 0.38 after kernels were fused and parallelism chosen anew", _TRAINY
            ),
        ),
        _cluster("Seren", 0.97),
        _cluster("Kalos", 0.99),
        _serving("before a request for logprobs", 2180.0),
        _serving("beside a request for logprobs", 730.0),
    )
}


def sighting(name: str) -> Sighting:
    """What was published, by the name of what ran.

    Raises:
        UnknownName: nothing under that name; the message lists the nearest.

    >>> seen = sighting("products of 256 x 256")
    >>> seen.busy.known(), seen.working.known()
    (1.0, 0.01)
    """
    return look_up(name, TELEMETRY, "sighting")
