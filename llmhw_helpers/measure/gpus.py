"""What NVIDIA's management library (NVML) says of the GPUs: the figures that nvidia-smi and nvtop show.

Busy means that a kernel ran, for a share of the last sixth of a second to a second (NVML's words about
``nvmlUtilization_t``). A kernel of one thread, on one of a hundred multiprocessors, makes a GPU 100% busy.
"""

import contextlib
import math
import os
import time
from itertools import takewhile

import pynvml

ASKING = 0.002  # of the time, that asking may take
MOST_GPUS = 64
MOST_WATTS = 5000.0  # of one card: the largest of 2026 take 1400


class Gpus:
    """The GPUs that this process may use (``CUDA_VISIBLE_DEVICES``).

    Where there is no NVML there is nothing to watch. What it does not tell, or tells and cannot be true, is said in one
    printed line, once, and left out; the rest goes on.

    Attributes:
        n_gpus: how many there are to watch.
    """

    def __init__(self):
        self._open, self._said, self._told, self._ask_again_at = False, set(), {}, 0.0
        self._cards = self._find()
        self.n_gpus = len(self._cards)
        # What a card does not tell now it is not asked again.
        self._asked = [(name, i) for name in QUESTIONS for i in self._cards if not math.isnan(self._ask(name, i))]

    def read(self, now: float) -> dict[str, float]:
        """``gpu_busy_percent`` (the mean over the cards), ``gpu_memory_bytes`` and ``gpu_watts`` (their sums).

        Of several cards, also ``gpu0_busy_percent`` and so on: a mean hides the idle one. A figure is nan at a moment
        when a card that told it before does not.

        Args:
            now: seconds, by a clock that never jumps. NVML makes new figures a few times a second, and telling them of
                many cards takes milliseconds: in between, they are the last ones.
        """
        if now < self._ask_again_at:
            return self._told
        began = time.thread_time()
        self._told = self._figures()
        self._ask_again_at = now + (time.thread_time() - began) / ASKING
        return self._told

    def _figures(self) -> dict[str, float]:
        told = {}
        for name in dict.fromkeys(name for name, _ in self._asked):
            values = {i: self._ask(name, i) for asked, i in self._asked if asked == name}
            told[name] = sum(values.values())
            if name == "gpu_busy_percent":
                told[name] /= len(values)
                if self.n_gpus > 1:
                    told |= {f"gpu{i}_busy_percent": value for i, value in values.items()}
        return told

    def close(self) -> None:
        """Let the library go."""
        if self._open:
            self._open, self._asked, self._told = False, [], {}
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _find(self) -> dict[int, object]:
        """NVML's handles, by number."""
        cards = {}
        try:
            pynvml.nvmlInit()
            self._open = True
            n_gpus = pynvml.nvmlDeviceGetCount()
            if n_gpus > MOST_GPUS:
                raise ValueError(f"it counts {n_gpus} GPUs")
        except pynvml.NVMLError_LibraryNotFound:
            return {}  # no NVIDIA driver: nothing to say
        except Exception as error:  # a library of another version can fail in any way
            self._say("NVML", f"NVML does not work here: GPUs are not watched ({_in_a_line(error)}).")
            return {}
        for i in range(n_gpus):
            try:
                card = pynvml.nvmlDeviceGetHandleByIndex(i)
                if _is_visible(i, card):
                    cards[i] = card
            except Exception as error:  # it is lost, or another user's
                self._say(i, f"GPU {i} is not watched ({_in_a_line(error)}).")
        return cards

    def _ask(self, name: str, i: int) -> float:
        """The card's figure; nan where it is not told, or cannot be true."""
        what = name.removeprefix("gpu_").replace("_", " ")
        try:
            value, most = QUESTIONS[name](self._cards[i])
        except Exception as error:  # as above
            self._say((name, i), f"GPU {i} does not tell its {what} ({_in_a_line(error)}).")
            return math.nan
        if not 0 <= value <= most:
            self._say((name, i), f"GPU {i} tells {value:g} {what}, which cannot be: left out.")
            return math.nan
        return float(value)

    def _say(self, about: object, line: str) -> None:
        if about not in self._said:
            self._said.add(about)
            print(line)


def _busy(card: object) -> tuple[float, float]:
    return pynvml.nvmlDeviceGetUtilizationRates(card).gpu, 100.0


def _memory(card: object) -> tuple[float, float]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(card)
    return memory.used, memory.total


def _watts(card: object) -> tuple[float, float]:
    return pynvml.nvmlDeviceGetPowerUsage(card) / 1e3, MOST_WATTS


QUESTIONS = {
    "gpu_busy_percent": _busy,
    "gpu_memory_bytes": _memory,
    "gpu_watts": _watts,
}  # value, and the most it can be


def _is_visible(i: int, card: object) -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` names the card, by its number or the begin of its UUID, or is not set."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or "MIG-" in wanted:  # a part of a card: NVML tells of whole ones
        return True
    # As CUDA has it, a number that is none hides all that follow.
    names = list(takewhile(lambda name: name != "-1", (name.strip() for name in wanted.split(","))))
    uuid = pynvml.nvmlDeviceGetUUID(card) if "GPU-" in wanted else ""
    return any(name == str(i) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _in_a_line(error: Exception) -> str:
    return f"{str(error) or type(error).__name__:.80}".splitlines()[0]
