"""The job script of a twin, in the form of the planner's: what Slurm reads, then the lines that start all ranks.

It is a whole one: the ranks find each other on several nodes, a signal comes before the time is up, the run goes on
from its checkpoint when Slurm starts the job again, and an array runs one twin after the other.
"""

import re
import shlex
import sys
from pathlib import Path

from .predictions import Prepared

PORTS = 20_000, 10_000  # the first, and how many: a job takes one by its number, as others use its nodes, too


class BadScript(ValueError):
    """Settings that no script is written for; the message says which."""


def twin_script(
    twins: Prepared | list[Prepared],
    folder: Path,
    minutes: int = 5,
    signal_s: int = 60,
    partition: str = "",
    account: str = "",
    further: tuple[str, ...] = (),
) -> str:
    """The script that runs a prepared twin, or as an array several of them.

    Args:
        twins: as `predictions.prepare` gives them; of one shape where they are several.
        folder: that they are prepared in, as ``twin.json``, or of several ``twin-1.json`` and so on; on a file system
            that all nodes reach.
        minutes: of the time limit.
        signal_s: seconds before the limit at which Slurm asks the job to stop.
        partition, account: on clusters that want them.
        further: other options of `sbatch`, such as ``"--gpus-per-node=A40:1"``.

    Raises:
        BadScript: twins of different shapes, none at all, no time, or words that would be other lines of the script.
    """
    listed = [twins] if isinstance(twins, Prepared) else list(twins)
    shapes = {(each.twin.n_nodes, each.twin.ranks_per_node) for each in listed}
    if len(shapes) != 1:
        raise BadScript(f"an array has nodes for all its tasks alike, and these twins are of {len(shapes)} shapes")
    if minutes < 1 or signal_s < 1:
        raise BadScript(f"a limit of {minutes} minutes, a signal {signal_s} s before: each is at least 1")
    if signal_s >= 60 * minutes:
        raise BadScript(f"a signal {signal_s} s before a limit of {minutes} minutes would come before the job begins")
    plans = ", ".join(dict.fromkeys(each.twin.plan for each in listed))
    odd = [word for word in (partition, account) if word and not re.fullmatch(r"[\w.,@:+-]+", word)]
    odd += [line for line in (plans, *further) if not line.isprintable()]  # it would begin a line of its own
    if odd:
        raise BadScript(f"no line of a job script can be made of {odd[0]!r:.80}")
    n_nodes, n_ranks = shapes.pop()
    is_array = not isinstance(twins, Prepared)
    directives = {"account": account, "partition": partition, "job-name": "twin", "nodes": n_nodes}
    directives |= {"ntasks-per-node": 1, "cpus-per-task": n_ranks}
    directives |= {"time": f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"}
    directives |= {
        "array": f"1-{len(listed)}" if is_array else "",
        "output": "%x-%A_%a.out" if is_array else "%x-%j.out",
    }
    directives |= {"signal": f"B:USR1@{signal_s}"}
    name = "twin-$SLURM_ARRAY_TASK_ID.json" if is_array else "twin.json"
    job = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' if is_array else '"$SLURM_JOB_ID"'
    lines = ["#!/bin/bash", f"# A small twin of the plan {plans}."]
    lines += [f"#SBATCH --{key}={value}" for key, value in directives.items() if value != ""]
    lines += [f"#SBATCH {option}" for option in ("--requeue", "--open-mode=append", *further)]
    first, n_ports = PORTS
    return "\n".join(
        [
            *lines,
            "set -euo pipefail",
            f"folder={_word(str(Path(folder).resolve()))} python={_word(sys.executable)}",
            f"job={job}",
            f'export python twin="$folder/{name}" stop="$folder/stop-$job"',
            "JOB_BEGAN=$(date +%s)",
            "",
            "# Ranks meet at the address of the first node.",
            'read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            'MASTER_ADDR=$(scontrol show node "$head" | grep -o "NodeAddr=[^ ]*" | cut -d= -f2)',
            f"MASTER_PORT=$(({first} + SLURM_JOB_ID % {n_ports}))",
            "export JOB_BEGAN MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=1",
            "",
            f"# {signal_s} s before the end Slurm signals this shell, which asks the ranks to stop at a checkpoint.",
            'asked="" && rm -f "$stop"',
            'trap \'asked=yes; echo "time is nearly up: stopping"; : > "$stop"\' USR1',
            "",
            "# One torchrun a node, with its own number.",
            "# shellcheck disable=SC2016  # each node fills in what is its own",
            "srun --kill-on-bad-exit=1 bash -c '",
            '  exec "$python" -m torch.distributed.run --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \\',
            f'    --nproc-per-node {n_ranks} --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \\',
            '    -m llmhw_helpers.distributed.program llmhw_helpers.cluster.rehearsal:rehearse "$twin"',
            "' &",
            "code=0 step=$!",
            'wait "$step" || code=$?',
            'if [ "$asked" ]; then code=0; wait "$step" || code=$?; fi  # the signal had ended the first waiting',
            "",
            "# The ranks delete the file when they were done in time. Else the job goes back into the queue, and on",
            "# from its checkpoint.",
            'if [ "$code" = 0 ] && [ -e "$stop" ]; then scontrol requeue "$SLURM_JOB_ID"; sleep 60; fi',
            'exit "$code"',
            "",
        ]
    )


def _word(text: str) -> str:
    """One word of bash, whatever is in it. `shlex.quote` would do, but shellcheck takes its quotes for a mistake."""
    if shlex.quote(text) == text:
        return text
    return "$'" + re.sub(r"['\"\\]", lambda found: rf"\x{ord(found[0]):02x}", text) + "'"
