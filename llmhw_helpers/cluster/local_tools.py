"""What a job script calls of Slurm, where there is none: `srun` and `scontrol` for the local runner, on this machine.

Called by its path, with the standard library alone: it starts in an instant. What it cannot do it refuses in a line.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

NODE = "local"  # names of nodes: local1, local2
SPOOL = "LLMHW_LOCAL_JOB"  # the folder in which the runner finds what the job asks of it
WITH_VALUE = {"--nodes", "-N", "--ntasks", "-n", "--ntasks-per-node", "--kill-on-bad-exit"}


def main(words: list[str]) -> int:
    """The tool by its name, with its arguments."""
    tools = {"srun": srun, "scontrol": scontrol}
    return tools[words[0]](words[1:])


def refuse(tool: str, what: str) -> int:
    """A line, and the exit code of a failure."""
    print(f"{tool} (the course's local runner): {what}", file=sys.stderr)
    return 1


def srun(words: list[str]) -> int:
    """Start the command once for each task, with the task's own numbers; the worst exit code."""
    options = {}
    while words and words[0].startswith("-"):
        name, has, value = words.pop(0).partition("=")
        if name in ("--label", "-l"):
            continue
        if name not in WITH_VALUE:
            return refuse("srun", f"does not know {name}")
        options[name] = value if has else words.pop(0)
    if not words:
        return refuse("srun", "no command")
    job = os.environ
    n_nodes = int(options.get("--nodes", options.get("-N", job["SLURM_NNODES"])))
    if n_nodes > int(job["SLURM_NNODES"]):
        return refuse("srun", f"{n_nodes} nodes are more than the job's {job['SLURM_NNODES']}")
    per_node = int(options.get("--ntasks-per-node", job["SLURM_NTASKS_PER_NODE"]))
    n_tasks = int(options.get("--ntasks", options.get("-n", n_nodes * per_node)))
    if n_tasks > n_nodes * per_node:
        return refuse("srun", f"{n_tasks} tasks are more than {n_nodes} nodes x {per_node}")
    counts = [n_tasks // n_nodes + (node < n_tasks % n_nodes) for node in range(n_nodes)]
    tasks, rank = [], 0
    for node, count in enumerate(counts):
        for local in range(count):
            own = {"SLURM_PROCID": rank, "SLURM_LOCALID": local, "SLURM_NODEID": node, "SLURM_NTASKS": n_tasks}
            own |= {"SLURM_STEP_ID": 0, "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, counts))}
            own |= {"SLURMD_NODENAME": f"{NODE}{node + 1}", "SLURM_STEP_NODELIST": _list(n_nodes)}
            environment = job | {name: str(value) for name, value in own.items()}
            tasks.append(subprocess.Popen(words, env=environment))
            rank += 1
    signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
    return _wait(tasks, options.get("--kill-on-bad-exit", "0") != "0")


def _wait(tasks: list[subprocess.Popen], together: bool) -> int:
    """Until all have ended; `together`, the first that fails ends the others."""
    worst, waiting = 0, {task.pid: task for task in tasks}
    while waiting:
        pid, status = os.wait()
        if (task := waiting.pop(pid, None)) is None:
            continue
        task.returncode = os.waitstatus_to_exitcode(status)
        code = task.returncode if task.returncode >= 0 else 128 - task.returncode
        if code and not worst and together:
            print(f"srun: error: a task ended with exit code {code}: the others are ended", file=sys.stderr)
            for other in waiting.values():
                other.terminate()
        worst = max(worst, code)
    return worst


def scontrol(words: list[str]) -> int:
    """``show hostnames LIST``, ``show node NAME``, ``requeue JOB``."""
    if words[:2] == ["show", "hostnames"]:
        names = words[2] if len(words) > 2 else os.environ["SLURM_JOB_NODELIST"]
        found = re.fullmatch(rf"{NODE}(?:(\d+)|\[(\d+)-(\d+)\])", names)
        if not found:
            return refuse("scontrol", f"{names} are no nodes of this job")
        first, last = (found[1], found[1]) if found[1] else (found[2], found[3])
        print("\n".join(f"{NODE}{i}" for i in range(int(first), int(last) + 1)))
        return 0
    if words[:2] == ["show", "node"] and len(words) == 3:
        print(f"NodeName={words[2]} NodeAddr=127.0.0.1 NodeHostName=localhost")
        return 0
    if words[:1] == ["requeue"] and words[1:] == [os.environ["SLURM_JOB_ID"]]:
        Path(os.environ[SPOOL], "requeue").touch()
        return 0
    return refuse("scontrol", f"does not know: {' '.join(words)}")


def _list(n_nodes: int) -> str:
    return f"{NODE}1" if n_nodes == 1 else f"{NODE}[1-{n_nodes}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
