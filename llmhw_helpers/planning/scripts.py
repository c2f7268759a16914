"""Job scripts: a plan as what Slurm takes. What nobody has published is a line to fill in.

A script that serves starts one copy of the model; copies are tasks of a job array, each a server of its own. A script
that trains starts all of it.
"""

from collections.abc import Mapping

from ..specs.clusters import CLUSTERS
from .jobs import BadPlan, Job
from .serving_scripts import serving_lines, vllm_options
from .training_scripts import training_lines

__all__ = ["BadPlan", "job_script", "vllm_command"]

LONGEST = 7 * 24  # hours of a job on Alvis (C3SE's course material)
SERVED_HOURS = 12


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
        "time": _time(job),
        "output": "%x-%A_%a.out" if job.is_array else "%x-%j.out",
    }
    if job.is_array:
        directives["array"] = f"1-{job.plan['dp_size']}"
    if job.offer.cluster == CLUSTERS["Alvis"].name:
        directives["partition"] = "alvis"
    else:
        lines += [
            f"# FILL IN what nobody has published of {job.offer.cluster}: the partition, and whether GPUs have a name"
        ]
        lines += ["# #SBATCH --partition="]
    lines += ["# Put your project in place of PROJECT."]
    return [*lines, *(f"#SBATCH --{name}={value}" for name, value in directives.items()), "set -euo pipefail", job.fail]


def _time(job: Job) -> str:
    hours = SERVED_HOURS if job.asked.task == "serve" else min(LONGEST, int(job.plan["seconds"][1] // 3600) + 1)
    return f"{hours // 24}-{hours % 24:02}:00:00"
