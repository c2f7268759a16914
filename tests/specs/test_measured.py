import csv
import math

import pytest

from llmhw_helpers.specs.measured import COLUMNS, FILE, BadRow, measured_rows


def write(path, **changes):
    """A file of one row, the first of ours, with other cells."""
    with open(FILE, newline="", encoding="utf-8") as file:
        cells = next(csv.DictReader(file)) | changes
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, cells)
        writer.writeheader()
        writer.writerow(cells)
    return path


def test_every_row_of_the_course_is_read():
    rows = measured_rows()
    assert len(rows) == len({row.id for row in rows}) == 449
    assert {row.group for row in rows} == set("ABCDE")
    # of speeds and times not one is without a number
    assert all(row.value > 0 for row in rows if row.group in "BC" and not row.quantity.endswith("fits"))


def test_a_start_up_log_adds_up():
    """As the file's own check says: share of the memory = weights + activations + the rest + cache."""
    row = next(row for row in measured_rows() if row.id == "A002")
    left = float(row.util_or_batch) * row.gpu_mem_reported_gib - row.weights_gib - row.activation_gib - row.nontorch_gib
    assert left == pytest.approx(row.kv_gib, abs=0.01)


def test_cells_are_typed_and_empty_ones_are_none(tmp_path):
    row = measured_rows(write(tmp_path / "a.csv", TP="", kv_tokens="17.0", fits="no", value="about 3"))[0]
    assert (row.tp_size, row.kv_tokens, row.fits, row.value, row.text) == (None, 17, False, None, "about 3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TP": "two"}, "A002: TP is 'two', and a whole number is asked for"),
        ({"TP": "1.5"}, "A002: TP is '1.5', and a whole number is asked for"),
        ({"weights_GiB": "nan"}, "A002: weights_GiB is 'nan', and a number is asked for"),
        ({"fits": "perhaps"}, "A002: fits is 'perhaps', not yes, no or empty"),
    ],
)
def test_what_it_does_not_know_is_refused_in_a_line(tmp_path, changes, said):
    with pytest.raises(BadRow, match=f"^{said}$"):
        measured_rows(write(tmp_path / "a.csv", **changes))


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(column for column in COLUMNS if column != "gpu") + "\n")
    with pytest.raises(BadRow, match=r"a.csv lacks the columns gpu"):
        measured_rows(path)


def test_no_number_is_none_and_not_infinite():
    assert all(math.isfinite(row.value) for row in measured_rows() if row.value is not None)
