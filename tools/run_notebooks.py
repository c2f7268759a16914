"""Execute notebooks in place and bring them into the committed form, so that an edit is a small diff.

The form: counts 1..n, one stdout stream a cell, no stderr, no widget state, no versions or times in the metadata.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from llmhw_helpers.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The committed form of `notebook`, edited in place."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    count = 0
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = _outputs(cell.outputs, count)
    return notebook


def _outputs(outputs: list, count: int) -> list:
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif WIDGET in output.get("data", {}):
            continue
        if "execution_count" in output:
            output.execution_count = count
        kept.append(output)
    return kept


def execute(path: Path, home: str) -> tuple[nbformat.NotebookNode, float, float]:
    """Run the notebook at `path`: the notebook with its outputs, the seconds, the kernel's peak memory in bytes.

    Its results are kept in `home`: what readers see does not depend on who ran it before.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    peak, start = [0.0], time.perf_counter()
    with client.setup_kernel(env=os.environ | {"LLMHW_HOME": home}):
        watch = threading.Thread(target=_watch, args=(client.km.provisioner.pid, peak), daemon=True)
        watch.start()
        for index, cell in enumerate(notebook.cells):
            if sys.stdout.isatty():
                print(f"\r{path.name}: cell {index + 1} of {len(notebook.cells)}", end="\r", flush=True)
            client.execute_cell(cell, index)
    return notebook, time.perf_counter() - start, peak[0]


def _watch(pid: int, peak: list[float]) -> None:
    try:
        kernel = psutil.Process(pid)
        while kernel.is_running():
            family = [kernel, *kernel.children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family))
            time.sleep(0.05)
    except psutil.Error:
        pass


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the whole file or nothing."""
    write_whole(path, f"{nbformat.writes(notebook)}\n".encode(), "notebook")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks/*.ipynb without any")
    parser.add_argument("--only-normalise", action="store_true", help="do not run them")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        for path in arguments.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
            try:
                if arguments.only_normalise:
                    save(normalise(nbformat.read(path, as_version=4)), path)
                    continue
                notebook, seconds, peak = execute(path, home)
                save(normalise(notebook), path)
            except Exception as error:  # a cell, its kernel, or the file itself: the others are run all the same
                print(f"{path.name}: failed, left as it was\n{type(error).__name__}: {error}", file=sys.stderr)
                failed += 1
            else:
                print(f"{path.name}: {seconds:.1f} s, peak {peak / 2**30:.2f} GiB")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
