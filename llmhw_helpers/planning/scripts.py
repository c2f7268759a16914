"""Job scripts: a plan as what Slurm takes. What nobody has published is a line to fill in.

A script that serves starts one copy of the model; copies are tasks of a job array, each a server of its own. A script
that trains starts all of it. A run that takes longer than a job may is an array of which one task runs at a time: each
goes on from the last checkpoint.
"""

from collections.abc import Mapping

from ..specs.clusters import CLUSTERS
from .jobs import BadPlan, Job
from .serving_scripts import serving_lines, vllm_options
from .training_scripts import training_lines

__all__ = ["BadPlan", "job_script", "vllm_command"]

SERVED_HOURS = 12
MOST_RUNS = 1000  # tasks of an array, by Slurm's own MaxArraySize


def job_script(request: Mapping, plan: Mapping) -> str:
    """The whole script: for Slurm on a cluster, else for a machine of one's own.

    Args:
        request: as `costs.planner.answer` takes it.
        plan: one of those that it gave.

    Raises:
        BadPlan: several nodes without Slurm.
    """
    job = Job.of(request, plan)
    lines = serving_lines if job.asked.task == "serve" else training_lines
    return "\n".join([*_head(job), "", *lines(job)])


def vllm_command(request: Mapping, plan: Mapping) -> str:
    """The command that serves one copy of the model, on one node; ``MODEL`` stands for weights that have to be chosen.

    Raises:
        BadPlan: no plan that serves, or one whose copies lie on several nodes.

    >>> from llmhw_helpers.costs.planner import answer
    >>> asked = {"model": "Llama-3.1-8B", "task": "serve", "where": "A40", "formats": ["bf16"]}
    >>> command = vllm_command(asked, answer(asked)["plans"][0])
    >>> command.partition(" --gpu")[0]
    'vllm serve meta-llama/Llama-3.1-8B --max-model-len 1300 --max-num-seqs 8'
    """
    job = Job.of(request, plan)
    if job.asked.task != "serve":
        raise BadPlan("vLLM serves; for fine-tuning and training ask for --script")
    if job.n_nodes > 1:
        raise BadPlan("a copy of the model lies on several nodes: ask for --script")
    return f"vllm serve {job.repository() or 'MODEL'} {vllm_options(job)}"


def _head(job: Job) -> list[str]:
    """What Slurm reads, and what the script is for."""
    lines = ["#!/bin/bash", f"# {job.asked.model.name}, {job.plan['name']}: written by llmhw-plan."]
    if job.offer.cluster is None:
        if job.n_nodes > 1:
            raise BadPlan("no script for several nodes without Slurm")
        return [*lines, "set -euo pipefail", job.fail]
    gpu_type = f"{job.offer.gpu_type}:" if job.offer.gpu_type else ""
    directives = {
        "account": "PROJECT",
        "job-name": f"llmhw-{job.asked.task}",
        "nodes": job.n_nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": f"{gpu_type}{job.gpus_per_node}",
        "cpus-per-task": job.cores_per_node,
        "time": _time(job),
        "output": "%x-%A_%a.out" if job.is_array or job.n_runs > 1 else "%x-%j.out",
        "partition": CLUSTERS[job.offer.cluster].partition,
    }
    if job.is_array:
        directives["array"] = f"1-{job.plan['dp_size']}"
    elif job.n_runs > 1:
        directives["array"] = f"1-{min(job.n_runs, MOST_RUNS)}%1"
        again = f" (an array holds {MOST_RUNS}: submit again)" if job.n_runs > MOST_RUNS else ""
        lines += [f"# Longer than a job may take: {job.n_runs} in turn, each from the last one's checkpoint{again}."]
    if job.offer.cluster == CLUSTERS["Arrhenius"].name:
        lines += ["# Its partition and longest time are as its users have published them: sinfo tells."]
        lines += ["# The project's name may have to end in -gpu."]
    lines += ["# Put your project in place of PROJECT. Submit from a folder on its storage: caches go there."]
    return [*lines, *(f"#SBATCH --{name}={value}" for name, value in directives.items()), "set -euo pipefail", job.fail]


def _time(job: Job) -> str:
    hours = SERVED_HOURS if job.asked.task == "serve" else min(job.longest_hours, job.hours)
    return f"{hours // 24}-{hours % 24:02}:00:00"
