"""The exercise on many files of notebook 15 against usual wrong answers and different right ones."""

from llmhw_helpers.course.exercises import EXERCISES, storage


def by_seconds(n, size, wanted, opens, rate, quota, opening=True, whole=True):
    if n > quota:
        return "tar"
    archive = 1 / opens + (n if whole else wanted) * size / rate
    return "tar" if archive < wanted * ((1 / opens if opening else 0) + size / rate) else "files"


def by_margin(n, size, wanted, opens, rate, quota):
    """Opens saved against bytes read for nothing."""
    return "tar" if n > quota or (wanted - 1) / opens > (n - wanted) * size / rate else "files"


RIGHT = {"tar_or_files": [by_seconds, by_margin]}
WRONG = {
    "tar_or_files": [
        (lambda n, *a: by_seconds(n, *a[:-1], 10**9), "left out the quota"),
        (lambda *a: by_seconds(*a, opening=False), "counted no opens"),
        (lambda *a: by_seconds(*a, whole=False), "wanted files alone"),
        (
            lambda n, *a: "tar" if n > a[-1] else {"tar": "files", "files": "tar"}[by_seconds(n, *a)],
            "return the faster one",
        ),
        (lambda *a: "tar", "always take the archive"),
        (lambda *a: "files", "always take the files"),
    ]
}


def test_storage(confront):
    confront(storage.EXERCISES, RIGHT, WRONG)


def test_it_is_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in storage.EXERCISES)
