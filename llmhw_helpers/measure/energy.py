"""Energy of the processor's packages, as its own counters tell it (RAPL, Linux on x86)."""

import contextlib
from pathlib import Path

from .growth import Growth

POWERCAP = Path("/sys/class/powercap")
MOST_WATTS = 5000.0  # of one package: whatever says more has started again, and not wrapped


class PackageEnergy:
    """Joules of all packages since the first reading.

    The counters count microjoules and wrap, after some 60 to 260 kJ. Reading them is root's privilege on most systems
    since 2020 (CVE-2020-8694: with them, one program could spy on another); then there are none, as on a Mac or Arm.

    Args:
        powercap: where the kernel shows them; AMD's processors, too, under ``intel-rapl:N``.
    """

    def __init__(self, powercap: Path = POWERCAP):
        self._growth = Growth()
        self._read_at: float | None = None
        self._counters = {}  # folder of a package: where its counter wraps
        for folder in sorted(powercap.glob("intel-rapl:*")):
            with contextlib.suppress(OSError, ValueError):
                if (folder / "name").read_text().startswith("package-"):  # not its parts, which it contains
                    int((folder / "energy_uj").read_text())
                    self._counters[folder] = int((folder / "max_energy_range_uj").read_text())

    def read(self, now: float) -> dict[str, float]:
        """``package_joules``; nothing where no counter can be read.

        Args:
            now: seconds, by a clock that never jumps.
        """
        passed, self._read_at = 0.0 if self._read_at is None else now - self._read_at, now
        grown = []
        for folder, wraps_at in self._counters.items():
            with contextlib.suppress(OSError, ValueError):
                value = int((folder / "energy_uj").read_text())
                grown.append(self._growth.add(folder, value, MOST_WATTS * 1e6 * passed, wraps_at))
        return {"package_joules": sum(grown) / 1e6} if self._counters and len(grown) == len(self._counters) else {}
