"""The form of a job: one file, whole, of one version; whatever else lies in its place is refused in a line."""

import pytest

from llmhw_helpers.cluster.forms import BadForm, Form, Line, form_path, read_form

FORM = Form(
    "17_2",
    "bf16 on 4 x A40",
    "fine-tune",
    "finished",
    {"a step": Line("s", 0.1, 0.2, "compute"), "bytes sent in a step": Line("B", 8e6), "price": Line("", None, 0.5)},
    {"steps_done": 20.0},
    {"machine": "a laptop"},
)


def test_a_form_comes_back_as_it_was(tmp_path):
    assert read_form(FORM.write(tmp_path)) == FORM


def test_the_table_has_a_row_for_each_line():
    rows = str(FORM).splitlines()
    assert rows[0] == "job 17_2: fine-tune as bf16 on 4 x A40; finished"
    assert rows[2].split() == ["a", "step", "~100", "ms", "~200", "ms", "~2"]
    assert rows[3].split() == ["bytes", "sent", "in", "a", "step", "~8", "MB", "-", "-"]
    assert rows[4].split() == ["price", "-", "~0.5", "-"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda text: text[: len(text) // 2], "is half-written or damaged: it is no JSON to its end"),
        (lambda text: "", "is half-written or damaged"),
        (lambda text: "[" * 100_000, "is damaged: 100,000 lists and objects"),
        (lambda text: "[1]", "is JSON, but no form of a job"),
        (lambda text: text.replace('"llmhw job"', '"other"'), "is JSON, but no form of a job"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "of version 2, and this program reads version 1"),
        (lambda text: text.replace('"status"', '"stotus"'), "is damaged: 'status'"),
        (lambda text: text.replace('"finished"', '"happy"'), "is damaged: a status 'happy'"),
        (lambda text: text.replace("0.2", '"fast"'), "is damaged: a figure is none"),
        (lambda text: text.replace("20.0", "NaN"), "is damaged: a figure is none"),
        (lambda text: text.replace("20.0", "1" + 400 * "0"), "is damaged: a whole number has 401 digits"),
        (lambda text: text.replace("0.2", "-0.2"), "is damaged: a figure is below 0"),
        (lambda text: text.replace('"measured"', '"meant"'), "is damaged"),
        (lambda text: text.replace("17_2", "18"), "is the form of job 18: somebody has renamed it"),
    ],
)
def test_what_is_no_form_is_one_line(tmp_path, content, line):
    path = FORM.write(tmp_path)
    path.write_text(content(path.read_text()))
    with pytest.raises(BadForm) as error:
        read_form(path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_form_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(BadForm, match=r"no form job-3.json in .* \(No such file or directory\)"):
        read_form(form_path(tmp_path, "3"))
    with pytest.raises(BadForm, match=r"'../3' is no number of a job"):
        form_path(tmp_path, "../3")


def test_a_file_that_is_far_too_large_is_not_read_as_a_form(tmp_path):
    path = form_path(tmp_path, "3")
    path.write_bytes(b" " * 10_000_001)
    with pytest.raises(BadForm, match="it has 10 MB"):
        read_form(path)
