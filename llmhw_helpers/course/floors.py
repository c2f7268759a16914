"""What is measured against its floor: a time below it speaks of a busy moment, not of the learner."""

from collections.abc import Callable, Hashable, Mapping

from ..costs.roofline import Roof
from ..measure.calibration import Calibration, calibrate
from ..measure.timers import measured

SLACK = 0.8  # clocks rise and fall by a fifth from minute to minute
TRIES = 2  # calibrations, some seconds each


def check_floors(
    calibration: Calibration,
    times: Mapping[Hashable, float],
    floors: Callable[[Roof], Mapping[Hashable, float]],
    slack: float = SLACK,
    recalibrate: Callable[..., Calibration] = calibrate,
) -> Calibration:
    """Hold measured times against their floors, and say in one line how they stand; never an error.

    Nothing runs faster than its floor. What was measured faster says that the machine was busy while it was
    calibrated, so it is calibrated again, and of each limit the higher roof is kept, for the other notebooks too. What
    is below its floor even then is named, and the page goes on; no ledger is changed.

    Args:
        calibration: the roofs that the floors were predicted from.
        times: measured, in seconds, by name.
        floors: from a roof the least seconds of each of `times`.
        slack: the share of its floor that a time may fall to before it counts as below.
        recalibrate: measures the machine again, and is called as `calibrate` is.

    Returns:
        the calibration with the highest roofs found.
    """
    for _ in range(TRIES):
        if not _below(times, floors(calibration.roof()), slack):
            break
        calibration = calibration.faster(recalibrate(save=False, progress=False, machine=calibration.machine))
        calibration.save()
    low = _below(times, floors(calibration.roof()), slack)
    if low:
        names = ", ".join(str(name) for name in low[:3]) + (", ..." if len(low) > 3 else "")
        why = "the machine was busy when it was calibrated; calibrate again in a quiet moment: calibrate()"
        said = f"{len(low)} of {len(times)} measured faster than the floor ({names}): {why}"
    else:
        said = "nothing was clearly faster than its floor"
    print(measured(f"floors: {said}"))
    return calibration


def _below(times: Mapping, floors: Mapping, slack: float) -> list:
    return [name for name, seconds in times.items() if seconds < slack * floors[name]]
