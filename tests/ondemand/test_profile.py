"""The profiling job, as sbatch would run it, with stand-ins for NVIDIA's tools that run the program they are given."""

import pytest

from llmhw_helpers.measure.nsys import SAMPLE, read_stats

# What comes after the last option that they take is the program; its exit status is theirs.
RUN = 'while [ "$1" != bash ]; do shift; done\n"$@" || exit\n'
NSYS = f"""
if [ "$1" = profile ]; then
  for option in "$@"; do case $option in --output=*) output=${{option#--output=}} ;; esac; done
  {RUN}
  echo report > "$output.nsys-rep"
else
  [ -s "${{@: -1}}" ] || exit 1
  cat "$CALLS/sample"
fi
"""
PROGRAM = """
import sys
if sys.argv[1:] not in (["healthy"], ["asking"]):
    sys.exit("traced_steps: another kind")
print(sys.argv[1], "steps")
"""


@pytest.fixture
def job(cluster):
    """A node whose torch sees a GPU, with nsys and ncu."""
    (cluster.course / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    program = cluster.course / "llmhw_helpers/course/traced_steps.py"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM)
    (cluster.calls / "sample").write_text(SAMPLE)
    for name, body in (("nsys", NSYS), ("ncu", RUN)):
        add(cluster, name, body)
    cluster.install("--project", cluster.project)
    cluster.submit = lambda *kind: cluster.run(
        "sbatch", "-A", "NAISS-1", cluster.course / "ondemand/profile.slurm", *kind
    )
    cluster.report = cluster.course / "ondemand/results/4711"
    return cluster


def add(cluster, name, body):
    path = cluster.calls.parent / "bin" / name
    path.write_text(f'#!/bin/bash\nprintf "%s\\x1f" "$@" >> "$CALLS/{name}"; echo >> "$CALLS/{name}"\n{body}')
    path.chmod(0o755)


@pytest.mark.parametrize("kind", ["healthy", "asking"])
def test_both_tools_run_the_steps_and_the_summaries_can_be_read(job, kind):
    result = job.submit(*([kind] if kind == "asking" else []))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(f"{kind} steps\n") == 2
    assert read_stats(job.report / "steps.csv")["nvtx_sum"][0].name == "decode"
    profile, stats = job.called("nsys")
    assert {"--trace=cuda,nvtx,osrt", "--capture-range=cudaProfilerApi", "--capture-range-end=stop"} <= set(profile)
    assert stats[-1] == f"{job.report}/steps.nsys-rep"
    (ncu,) = job.called("ncu")
    assert ncu[ncu.index("--nvtx-include") + 1] == "forward/"
    assert ncu[ncu.index("--export") + 1] == f"{job.report}/kernels"
    assert result.stdout.splitlines()[-1].startswith(f"report: {job.report} ")


def test_without_nsight_compute_the_rest_is_there(job):
    add(job, "ncu", "exit 1\n")
    result = job.submit()
    assert result.returncode == 0
    assert "ncu failed; the report of nsys is there all the same" in result.stderr
    (job.calls.parent / "bin/ncu").unlink()
    result = job.submit()
    assert result.returncode == 0
    assert "no ncu on" in result.stderr


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nsys", "Load a module that has it (ml spider Nsight-Systems)"),
        ("runtime", "Make it: ondemand/install.sh --project FOLDER"),
        ("course", "submit the job from the course's folder"),
        ("cuda", "torch does not see this node's GPU"),
        ("kind", "nsys profile failed"),
        ("stats", "nsys stats failed"),
    ],
)
def test_says_what_is_missing(job, what, message):
    if what == "nsys":
        (job.calls.parent / "bin/nsys").unlink()
    elif what == "runtime":
        job.installed.unlink()
    elif what == "course":
        (job.course / "llmhw_helpers/course/traced_steps.py").unlink()
    elif what == "cuda":
        (job.course / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    elif what == "stats":
        (job.calls / "sample").unlink()
    result = job.submit(*(["aching"] if what == "kind" else []))
    assert result.returncode == 1
    assert message in result.stderr
