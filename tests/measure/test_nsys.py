"""Summaries of nsys stats: the documented columns, in every unit, alone or together; and what is none."""

import pytest

from llmhw_helpers.measure.nsys import COLUMNS, SAMPLE, BadStats, parse_stats, read_stats

TIMES = "Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns)"
API = f"""Time (%),Total Time (ns),Num Calls,{TIMES},Name
75.0,3000,3,1000.0,1000.0,900,1100,100.0,cudaLaunchKernel
25.0,1000,1,1000.0,1000.0,1000,1000,0.0,cudaMalloc
"""
PROCESSING = "Processing [run.sqlite] with [/opt/nvidia/nsight-systems/2024.5.1/host-linux-x64/reports/{}.py]... \n"
SKIPPED = "SKIPPED: run.sqlite does not contain CUDA kernel data.\n"


def test_the_sample_has_every_report_and_adds_up():
    stats = parse_stats(SAMPLE)
    assert stats.keys() == COLUMNS.keys()
    for rows in stats.values():
        whole = sum(row.seconds for row in rows)
        for row in rows:
            assert row.seconds == pytest.approx(row.count * row.mean_s)
            assert row.share == pytest.approx(row.seconds / whole, abs=6e-4)
            assert row.max_s > row.mean_s
    launches = {row.name: row.count for row in stats["cuda_api_sum"]}["cudaLaunchKernel"]
    assert launches == sum(row.count for row in stats["cuda_gpu_kern_sum"])
    assert [(row.name, row.count) for row in stats["nvtx_sum"]] == [("decode", 100)]
    assert stats["cuda_gpu_kern_sum"][0].name == "void gemv<float, 128>(float const*, float const*, float*, int)"


def test_a_table_to_the_last_number():
    text = "Generating SQLite file run.sqlite from run.nsys-rep\n" + PROCESSING.format("cuda_api_sum") + "\n" + API
    found = parse_stats(text)
    assert found.keys() == {"cuda_api_sum"}
    launch, allocate = found["cuda_api_sum"]
    assert launch[:2] == ("cudaLaunchKernel", 3)
    assert launch[2:] == pytest.approx((3e-6, 0.75, 1e-6, 1.1e-6))
    assert allocate[:2] == ("cudaMalloc", 1)
    assert allocate[2:] == pytest.approx((1e-6, 0.25, 1e-6, 1e-6))


def test_the_heading_of_a_table_names_it_too():
    assert parse_stats(" ** CUDA API Summary (cuda_api_sum):\n\n" + API).keys() == {"cuda_api_sum"}


def test_a_file_of_one_report_is_known_by_its_name(tmp_path):
    (tmp_path / "run_cuda_api_sum.csv").write_text(API)
    assert read_stats(tmp_path / "run_cuda_api_sum.csv")["cuda_api_sum"][0].count == 3


@pytest.mark.parametrize(("unit", "seconds"), [("us", 3e-3), ("ms", 3.0), ("s", 3000.0)])
def test_other_units_are_read_from_the_columns(unit, seconds):
    text = PROCESSING.format("cuda_api_sum") + API.replace("(ns)", f"({unit})")
    assert parse_stats(text)["cuda_api_sum"][0].seconds == pytest.approx(seconds)


def test_a_report_that_found_nothing_is_empty_and_others_are_passed_over():
    text = PROCESSING.format("cuda_gpu_kern_sum") + SKIPPED + "\n" + PROCESSING.format("osrt_sum") + "\n" + API
    assert parse_stats(text + "\n" + PROCESSING.format("cuda_api_sum") + "\n" + API).keys() == {
        "cuda_gpu_kern_sum",
        "cuda_api_sum",
    }
    assert parse_stats(text)["cuda_gpu_kern_sum"] == []


def test_older_versions_lack_some_columns():
    text = API.replace(",Med (ns)", "").replace("1000.0,1000.0,", "1000.0,")
    assert parse_stats(PROCESSING.format("cuda_api_sum") + text)["cuda_api_sum"][0].count == 3


HEAD = PROCESSING.format("cuda_api_sum")
NO_STATS = {
    "empty": ("", "the text has none of the reports"),
    "another table": ("a,b\n1,2\n", "has none of the reports"),
    "no report named": (API, "line 1: a table, and nothing says of which report"),
    "cut in a row": (HEAD + API[:-20], "line 4: no row of cuda_api_sum"),
    "cut between rows": (HEAD + "\n".join(API.splitlines()[:2]), r"add up to 75.0%: some rows are missing"),
    "no rows": (HEAD + API.splitlines()[0], r"add up to 0.0%"),
    "a word for a number": (HEAD + API.replace("3000", "many"), "line 3: no row"),
    "not a number": (HEAD + API.replace("3000", "nan"), "line 3: no row"),
    "below nothing": (HEAD + API.replace("3000", "-3000"), "line 3: no row"),
    "half a call": (HEAD + API.replace(",3,", ",2.5,"), "line 3: no row"),
    "an endless name": (HEAD + API + "1," * 70_000, "line 5: no row"),
    "another unit": (HEAD + API.replace("(ns)", "(days)"), "in days; known are ns"),
    "no unit": (HEAD + API.replace("Total Time (ns)", "Total Time"), r"without its column Total Time"),
    "another column": (HEAD + API.replace("Num Calls", "Calls"), "without its column Num Calls"),
    "twice": (HEAD + API + "\n" + HEAD + API, "line 7: a second table of cuda_api_sum"),
}


@pytest.mark.parametrize(("text", "said"), NO_STATS.values(), ids=NO_STATS)
def test_what_is_no_summary_is_refused_in_one_line(text, said):
    with pytest.raises(BadStats, match=said) as refused:
        parse_stats(text)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "run.nsys-rep").write_bytes(b"\x80\x81\xff")
    with pytest.raises(BadStats, match=r"run.nsys-rep is no text: nsys stats --format csv makes one"):
        read_stats(tmp_path / "run.nsys-rep")
    with pytest.raises(BadStats, match=r"none.csv cannot be read: No such file"):
        read_stats(tmp_path / "none.csv")
