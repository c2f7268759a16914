"""Exercise on many small files (notebook 15)."""

from ...costs.storage import files_seconds
from ..grading import Exercise, Mistake

# files, bytes of each, how many are wanted, files opened per second, bytes per second, files that the quota allows
HEAPS = [
    (20_000, 4096, 20_000, 5000, 1e9, 60_000),
    (20_000, 4096, 20, 5000, 1e9, 60_000),
    (100_000, 4096, 20, 5000, 1e9, 60_000),
    (50, 1e9, 50, 5000, 1e9, 60_000),
    (40, 1e9, 3, 5000, 1e9, 60_000),
    (40_000, 1e6, 2_000, 1000, 5e9, 60_000),
    (500, 150_000, 500, 200, 2e9, 60_000),
    (2_000, 100_000, 900, 5000, 1e9, 60_000),
    (40, 1e9, 1, 5000, 1e9, 60_000),
    (61_000, 10, 1, 5000, 1e9, 60_000),
]


def _choose(n_files, file_bytes, n_wanted, files_per_s, bytes_per_s, quota, open_s=1, whole=True, bounded=True):
    files = files_seconds(n_wanted, file_bytes, files_per_s / open_s if open_s else 1e30, bytes_per_s)
    taken = n_files if whole else n_wanted
    archive = files_seconds(1, taken * file_bytes, files_per_s, bytes_per_s)
    return "tar" if (bounded and n_files > quota) or archive < files else "files"


EXERCISES = [
    Exercise(
        name="tar_or_files",
        cases=HEAPS,
        right=_choose,
        mistakes=[
            Mistake(
                "You left out the quota: more files than that cannot lie there as files.",
                lambda *a: _choose(*a, bounded=False),
            ),
            Mistake(
                "You counted no opens: each file takes 1 / files_per_s seconds before it is read.",
                lambda *a: _choose(*a, open_s=0),
            ),
            Mistake(
                "You read the wanted files alone from the archive: without an index all n_files are read.",
                lambda *a: _choose(*a, whole=False),
            ),
            Mistake(
                "You took the way that takes longer: return the faster one.",
                lambda n, *a: "tar" if n > a[-1] or _choose(n, *a) == "files" else "files",
            ),
            Mistake("You always take the archive: compare the seconds of both.", lambda *a: "tar"),
            Mistake("You always take the files: compare the seconds of both.", lambda *a: "files"),
        ],
    )
]
