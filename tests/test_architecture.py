"""The rooms: small, documented, imported one way, and the facts free of everything but the standard library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted((ROOT / "llmhw_helpers").rglob("*.py"))


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_is_one_noun_well_under_300_lines(path):
    assert len(path.read_text().splitlines()) < 300
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def test_imports_go_one_way():
    lint = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_facts_and_predictions_import_with_the_standard_library_alone():
    """As a reader's browser does: no site-packages at all."""
    rooms = [path for path in ROOMS if path.parts[-2] in ("specs", "costs") and path.stem != "__init__"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in rooms]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(names)}"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_tests_mirror_the_package():
    """Every room with code has tests, under its own name or its folder's."""
    untested = []
    for path in ROOMS:
        inside = path.relative_to(ROOT / "llmhw_helpers")
        names = {f"test_{inside.stem}.py", f"test_{inside.parent.name}.py", *EXTRA.get(str(inside), ())}
        folder = ROOT / "tests" / inside.parent
        if inside.stem != "__init__" and not any((folder / name).exists() for name in names):
            untested.append(str(inside))
    assert not untested


EXTRA = {  # rooms that are tested through the one they belong to
    "cluster/cli.py": ["test_report.py"],
    "cluster/directives.py": ["test_runs.py"],
    "cluster/local_runner.py": ["test_runs.py"],
    "cluster/local_tools.py": ["test_runs.py"],
    "cluster/predictions.py": ["test_twin.py"],
    "cluster/rehearsal.py": ["test_twin.py"],
    "cluster/scripts.py": ["test_twin.py"],
    "cluster/work.py": ["test_twin.py"],
    "distributed/units.py": ["test_zero.py"],
    "llm/files.py": ["../test_files.py"],  # the old name
    "course/sick_jobs.py": ["test_sick_runs.py"],
    "course/diagnoses.py": ["test_recorded_runs.py"],
    "server/fields.py": ["test_protocol.py"],
    "server/interrupts.py": ["test_cli.py"],
    "server/options.py": ["test_server.py"],
    "server/replies.py": ["test_protocol.py"],
    "serving/statistics.py": ["test_engine.py"],
    "serving/protocol.py": ["../server/test_server.py"],  # the old names of the server's rooms
    "serving/server.py": ["../server/test_server.py"],
    "costs/pruning.py": ["../llm/test_pruning.py"],
    "specs/data_sheets.py": ["test_accelerators.py"],
    "specs/datacenter_cards.py": ["test_accelerators.py"],
    "specs/home_cards.py": ["test_accelerators.py"],
    "specs/other_cards.py": ["test_accelerators.py"],
    "specs/architectures.py": ["test_models.py"],
    "specs/families.py": ["test_models.py"],
    "specs/families_layer_norm.py": ["test_models.py"],
    "specs/hub.py": ["test_models.py"],
    **{
        f"specs/models_{family}.py": ["test_models.py"]
        for family in ("deepseek", "gemma", "llama", "mistral", "other", "qwen")
    },
    "specs/parts.py": ["test_models.py"],
    "specs/rotary.py": ["test_configs.py"],
    "specs/settings.py": ["test_configs.py"],
    "specs/engines.py": ["../costs/test_serving_memory.py"],
    "specs/serving_flavours.py": ["../costs/test_weights.py"],
    "costs/serving_ranks.py": ["test_serving_memory.py"],
    "costs/serving_reserve.py": ["test_serving_memory.py"],
    "costs/flops.py": ["test_roofline.py"],
    "costs/durations.py": ["test_speed.py"],
    "costs/operations.py": ["test_activations.py"],
    "costs/parameters.py": ["test_memory.py"],
    "costs/sparse.py": ["test_activations.py"],
    "distributed/delays.py": ["test_networks.py"],
    "distributed/faults.py": ["test_ranks.py"],
    "distributed/launcher.py": ["test_ranks.py"],
    "distributed/processes.py": ["test_ranks.py"],
    "distributed/worker.py": ["test_ranks.py"],
    "cluster/usage.py": ["test_slurm.py"],
    "planning/jobs.py": ["test_scripts.py"],
    "planning/serving_scripts.py": ["test_scripts.py"],
    "planning/training_scripts.py": ["test_scripts.py"],
    "measure/panels.py": ["test_quantities.py"],
    "measure/probes.py": ["test_calibration.py"],
    "measure/machine.py": ["test_calibration.py"],
    "measure/trace_files.py": ["test_traces.py"],
    "widgets/attention.py": ["test_language.py"],
    "widgets/next_token.py": ["test_language.py"],
    "plots/style.py": ["test_roofline.py"],
}


def test_public_functions_say_what_they_do():
    silent = []
    for path in ROOMS:
        for node in ast.walk(ast.parse(path.read_text())):
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and node.col_offset == 0 and not ast.get_docstring(node):
                silent.append(f"{path.name}:{node.name}")
    assert not silent
