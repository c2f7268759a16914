"""How many fresh runs the course's own diagnosis gets right, kind by kind; and the recorded runs, made anew.

    python benchmarks/diagnose.py [--seeds 3] [--first 100] [--record FOLDER]

Each run takes some six seconds. With a folder, the runs are also written there, as `course.recorded_runs` reads them:
those of the first two seeds as seen, the others as unseen. A run is made again, up to five times, where the machine's
other work changed before the change: the second half of that time had a quarter more or fewer tokens than the first.
"""

import argparse
from collections import Counter
from pathlib import Path

from llmhw_helpers.course.diagnoses import diagnosis
from llmhw_helpers.course.recorded_runs import PARTS, write_runs
from llmhw_helpers.course.sick_runs import KINDS, sick_run
from llmhw_helpers.measure.series import Series

SEEN, TRIES = 2, 5


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--record", type=Path, help="a folder for the runs")
    return parser.parse_args()


def steady(series: Series) -> bool:
    """Whether the run was undisturbed as long as it was healthy."""
    change = series.times("change")[0]
    first, second = (series.between(begin, begin + change / 2).mean("tokens_per_s") for begin in (0, change / 2))
    return 0.75 < second / first < 1.33


def undisturbed(kind: str, seed: int) -> Series:
    """A run of that kind and seed, the last of several if need be."""
    for _ in range(TRIES):
        series = sick_run(kind, seed)
        if steady(series):
            break
    return series


def main():
    arguments = parse()
    parts = {"seen": [], "unseen": []}
    right = Counter()
    for i in range(arguments.seeds):
        for kind in KINDS:
            series = (undisturbed if arguments.record else sick_run)(kind, arguments.first + i)
            said = diagnosis(series)
            right[kind] += said == kind
            parts["seen" if i < SEEN else "unseen"].append((kind, series))
            print(f"seed {arguments.first + i}: {kind}" + (f", taken for {said}" if said != kind else ""), flush=True)
    print(f"\n{'':20}right of {arguments.seeds}")
    for kind in KINDS:
        print(f"{kind:20}{right[kind]}")
    print(f"{'all':20}{right.total()} of {arguments.seeds * len(KINDS)}")
    if arguments.record:
        for part, runs in parts.items():
            write_runs(arguments.record / PARTS[part], runs)


if __name__ == "__main__":
    main()
