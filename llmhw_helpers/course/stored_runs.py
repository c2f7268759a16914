"""Runs on shaped networks, stored for the machines that cannot make a network of their own (notebook 15).

Made with the notebook's own functions of the same names, two ranks of one thread each, on two cores of an AMD EPYC
(virtual machine, Linux) that had other work as well, PyTorch 2.13 with gloo, in November 2026. Seconds, as rank 0
measured them, each the median of five calls.
"""

from collections.abc import Mapping

RUNS: Mapping[tuple[float, float, str], object] = {
    (250e6, 0.0, "train_steps"): {"alone": 0.0087, "fp32": 0.3119, "fp16": 0.1721},
    (1e9, 0.0, "train_steps"): {"alone": 0.0096, "fp32": 0.0873, "fp16": 0.0618},
    (1e9, 0.005, "small_messages"): (0.0054, 0.0239),
}


def stored_run(bits_per_s: float, delay_s: float, name: str) -> object:
    """What the notebook's function `name` returned on such a network.

    Raises:
        LookupError: there is none; the message says which there are.

    >>> stored_run(1e9, 0.0, "train_steps")["fp32"] < stored_run(250e6, 0.0, "train_steps")["fp32"]
    True
    """
    try:
        return RUNS[bits_per_s, delay_s, name]
    except KeyError:
        there = "; ".join(f"{what} at {rate:g} bit/s, {delay:g} s" for rate, delay, what in RUNS)
        raise LookupError(
            f"no stored run of {name} at {bits_per_s:g} bit/s, {delay_s:g} s; there are {there}"
        ) from None
