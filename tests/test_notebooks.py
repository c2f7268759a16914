"""The committed form of every notebook: executed, normalised, small, kind to readers; and the tool that makes it so."""

import copy
import importlib.util
import itertools
import re
from html import unescape
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"exercise", "check", "solution", "hide-cell", "hide-input", "nbval-ignore-output", "gpu"}


def tool():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "tools" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_it_is_a_valid_notebook_in_the_committed_form(notebook):
    nbformat.validate(notebook)
    assert tool().normalise(copy.deepcopy(notebook)) == notebook


def test_it_was_executed_from_top_to_bottom(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_no_stderr_no_error_no_svg_and_no_widget_is_stored(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            kinds = set(output.get("data", {}))
            assert not kinds & {"image/svg+xml", "application/vnd.jupyter.widget-view+json", "application/javascript"}
    assert "widgets" not in notebook.metadata


def test_every_picture_has_a_text_for_those_who_do_not_see_it_and_a_caption(notebook):
    for cell in code(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown["image"]["alt"]) > 40, cell.source
            assert len(shown["figure"]["caption"]) > 20, cell.source
            assert "show_" in cell.source or cell.source.endswith("plt.show()"), cell.source


def figures_named(prose):
    lists = re.findall(r"[Ff]igures? (\d\d\.\d+(?:(?:, | and )\d\d\.\d+)*)", prose)
    return set(re.findall(r"\d\d\.\d+", " ".join(lists)))


def test_prose_names_a_figure_by_its_number_before_it_is_seen(notebook):
    """The book numbers them (book/_ext/figure_numbers.py), and JupyterLab shows neither numbers nor captions."""
    digits, named, shown = notebook.cells[0].source[2:4], set(), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            named |= {number for number in figures_named(cell.source) if number.startswith(digits)}
        elif "figure" in cell.metadata.get("mystnb", {}):
            shown.append(f"{digits}.{len(shown) + 1}")
            assert shown[-1] in named, cell.source
    assert named <= set(shown)


def test_a_ledger_is_shown_as_a_table_and_not_printed(notebook):
    assert not [cell.source for cell in code(notebook) if "print(ledger)" in cell.source], "display(ledger)"


def test_a_guess_has_a_place_before_the_prediction_and_its_row_in_the_ledger(notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    shown = [output.data.get("text/html", "") for cell in code(notebook) for output in cell.outputs if "data" in output]
    rows = {unescape(name) for page in shown for name in re.findall(r'<th scope="row">([^<]*)</th>', page)}
    if "display(ledger)" in source:
        assert re.search(r"^(my_guess|your_guess) = |^ledger\.guess\(", source, re.MULTILINE)
    assert set(re.findall(r'^ledger\.guess\("([^"]+)", None\)', source, re.MULTILINE)) <= rows
    assert source.count("ledger.guess(") == len(re.findall(r'^ledger\.guess\(f?"[^"]+", None\)', source, re.MULTILINE))


def test_cells_hold_one_idea(notebook):
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 25, cell.source
        assert set(tags(cell)) <= TAGS


def test_nine_output_cells_in_ten_are_compared(notebook):
    shown = [cell for cell in code(notebook) if cell.outputs]
    loose = [cell for cell in shown if "nbval-ignore-output" in tags(cell)]
    assert len(loose) <= 0.1 * len(shown), f"{len(loose)} of {len(shown)}"


def test_the_first_cell_tells_a_kernel_without_the_package_what_to_do(notebook):
    first = code(notebook)[0]
    names = {}
    with pytest.raises(SystemExit, match="lacks the course's package: start with `make lab`"):
        exec(first.source.replace("import llmhw_helpers", "import a_package_that_is_not_there"), names)


def test_what_is_folded_says_what_it_is_in_jupyterlab_and_in_the_book(notebook):
    """The book's own words for a fold, in `_config.yml`, are those of a solution."""
    for cell in code(notebook):
        folded = {"hide-cell", "hide-input"} & set(tags(cell))
        prompt = cell.metadata.get("mystnb", {}).get("code_prompt_show")
        assert bool(folded) == cell.metadata.get("jupyter", {}).get("source_hidden", False), cell.source
        assert bool(prompt) == (bool(folded) and "solution" not in tags(cell)), cell.source


def test_imports_and_the_package_check_are_folded(notebook):
    first, second = code(notebook)[:2]
    assert tags(first) == ["hide-input"], "what it prints is seen"
    assert tags(second) == ["hide-cell"]
    for cell in code(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) >= 3 and all(line.startswith(("import ", "from ")) for line in lines):
            assert "hide-cell" in tags(cell), cell.source


def test_an_exercise_says_whose_turn_it_is(notebook):
    for before, cell in itertools.pairwise(notebook.cells):
        if "exercise" in tags(cell):
            assert before.source.startswith("> **Your turn.**"), cell.source


def test_at_least_four_exercises_each_blank_with_check_and_folded_solution(notebook):
    cells = code(notebook)
    exercises = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert len(exercises) >= 4
    for i in exercises:
        name = cells[i].source.split("def ")[1].split("(")[0]
        assert cells[i].source.rstrip().endswith("..."), "an exercise is committed blank"
        assert cells[i + 1].source == f"check({name})"
        assert tags(cells[i + 1]) == ["check"]
        assert cells[i + 2].source.startswith(f"@solution({name})\ndef {name}(")
        assert {"solution", "hide-cell"} <= set(tags(cells[i + 2]))
        assert cells[i + 2].metadata["jupyter"]["source_hidden"]


def test_prose_is_common_markdown_that_both_jupyterlab_and_the_book_render(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert ":::" not in cell.source
            assert "```{" not in cell.source
            assert not any(f"{{{role}}}`" in cell.source for role in ("ref", "doc", "term", "cite"))


def test_sections_close_with_a_takeaway(notebook):
    assert sum("**Takeaway.**" in cell.source for cell in notebook.cells) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_normalising_merges_streams_and_drops_what_differs_from_run_to_run():
    cell = nbformat.v4.new_code_cell(
        "print(1)", execution_count=7, metadata={"execution": {"shell.execute_reply": "2026"}, "scrolled": True}
    )
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Box()"}
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="a\n"),
        nbformat.v4.new_output("stream", name="stderr", text="noise"),
        nbformat.v4.new_output("stream", name="stdout", text="b\n"),
        nbformat.v4.new_output("display_data", data=view),
        nbformat.v4.new_output("execute_result", data={"text/plain": "1"}, execution_count=7),
    ]
    raw = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {"state": 1}, "language_info": {"name": "python", "version": "3.14"}}
    )
    done = tool().normalise(raw)
    assert [output.output_type for output in done.cells[0].outputs] == ["stream", "execute_result"]
    assert done.cells[0].outputs[0].text == "a\nb\n"
    assert done.cells[0].outputs[1].execution_count == done.cells[0].execution_count == 1
    assert done.cells[0].metadata == {}
    assert "version" not in done.metadata.language_info
    assert "widgets" not in done.metadata


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path, monkeypatch, capsys):
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    monkeypatch.setattr("sys.argv", ["run_notebooks.py", str(path)])
    assert tool().main() == 1
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["the kernel dies", "the kernel dies as it starts", "no notebook", "no file"])
def test_what_cannot_be_run_does_not_end_the_run(tmp_path, monkeypatch, capsys, kind):
    bad, well = tmp_path / "bad.ipynb", tmp_path / "well.ipynb"
    for path, source in ((bad, "import os; os._exit(9)"), (well, "1 + 1")):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    there = [bad, well]
    if kind == "the kernel dies as it starts":
        starts = iter(["import os; os._exit(9)", ""])
        start_kernel = AsyncKernelManager.start_kernel

        async def start(self, **how):
            code = next(starts)
            if code:
                self.kernel_spec.argv[1:] = ["-c", code]
            return await start_kernel(self, **how)

        monkeypatch.setattr(AsyncKernelManager, "start_kernel", start)
    elif kind == "no notebook":
        bad.write_text("{")
    elif kind == "no file":
        bad.unlink()
        there = [well]
    before = bad.read_bytes() if bad.exists() else None
    monkeypatch.setattr("sys.argv", ["run_notebooks.py", str(bad), str(well)])
    assert tool().main() == 1
    assert (bad.read_bytes() if bad.exists() else None) == before
    assert nbformat.read(well, as_version=4).cells[0].outputs[0].data["text/plain"] == "2"
    assert "bad.ipynb: failed, left as it was" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == there
