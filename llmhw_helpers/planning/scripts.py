"""Job scripts: a plan as what Slurm and vLLM take. What nobody has published is a line to fill in.

One script serves one copy of the model; copies are tasks of a job array, each a server of its own. Tensor parallelism
stays in a node; the stages of a pipeline go to the nodes, one vLLM process on each
(https://docs.vllm.ai/en/stable/serving/parallelism_scaling/, "Running vLLM with MultiProcessing").
"""

import re
import shlex
from collections.abc import Mapping

from ..costs.requests import read_request
from ..specs.clusters import cluster

# Facts of Alvis: C3SE's course material and job scripts that its users have published.
ALVIS_IMAGE = "/apps/containers/vLLM/vllm-0.19.1.sif"
ALVIS_MODELS = "/mimer/NOBACKUP/Datasets/LLM/huggingface"
NNODES_SINCE = "0.12"  # vLLM's release with --nnodes (pull request 23691)
LONGEST = 7 * 24  # hours of a job on Alvis
SERVED_HOURS = 12


class BadPlan(ValueError):
    """A plan that no script is written for."""


def vllm_command(request: Mapping, plan: Mapping) -> str:
    """The command that serves one copy of the model, on one node; ``MODEL`` stands for weights that have to be chosen.

    >>> from llmhw_helpers.costs.planner import answer
    >>> asked = {"model": "Llama-3.1-8B", "task": "serve", "where": "A40", "formats": ["bf16"]}
    >>> command = vllm_command(asked, answer(asked)["plans"][0])
    >>> command.partition(" --gpu")[0]
    'vllm serve meta-llama/Llama-3.1-8B --max-model-len 1300 --max-num-seqs 8'
    """
    if request["task"] != "serve":
        raise BadPlan("vLLM serves; for fine-tuning and training ask for --script")
    if plan["n_nodes"] > plan["dp_size"]:
        raise BadPlan("a copy of the model lies on several nodes: ask for --script")
    return shlex.join(["vllm", "serve", repository(request, plan) or "MODEL", *_vllm_options(request, plan)])


def job_script(request: Mapping, plan: Mapping) -> str:
    """The whole script: for Slurm on a cluster, else for a machine of one's own."""
    if request["task"] != "serve":
        raise BadPlan("no scripts for training yet")
    return "\n".join([*_head(request, plan), "", *_serving(request, plan)])


def repository(request: Mapping, plan: Mapping) -> str | None:
    """Where the Hugging Face hub has the weights; None where the plan's format is another than the model's own."""
    model = read_request(request).model
    found = re.match(r"config\.json of (\S+/\S+) on the Hugging Face hub", model.source)
    return found[1] if found and plan["format"] in ("bf16", "fp16") else None


def _vllm_options(request: Mapping, plan: Mapping) -> list[str]:
    asked = read_request(request)
    sizes = {"--tensor-parallel-size": plan["tp_size"], "--pipeline-parallel-size": plan["pp_size"]}
    options = [word for flag, n in sizes.items() if n > 1 for word in (flag, str(n))]
    options += ["--max-model-len", str(asked.context), "--max-num-seqs", str(plan["batch_size"])]
    options += ["--gpu-memory-utilization", f"{asked.utilisation:g}"]
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(plan["format"])
    return options + (["--dtype", dtype] if dtype else [])


def _head(request: Mapping, plan: Mapping) -> list[str]:
    """What Slurm reads, and what the script is for."""
    asked = read_request(request)
    offer = next(each for each in asked.where if each.card.name == plan["card"])
    lines = ["#!/bin/bash", f"# {asked.model.name}, {plan['name']}: written by llmhw-plan."]
    if offer.cluster is None:
        return [*lines, "set -euo pipefail"]
    per_copy = plan["tp_size"] * plan["pp_size"] * (1 if asked.task == "serve" else plan["dp_size"])
    n_nodes = offer.n_nodes(per_copy)
    gpus = -(-per_copy // n_nodes)
    gpu_type = offer.gpu_type
    directives = ["--account=PROJECT", f"--job-name=llmhw-{asked.task}", f"--nodes={n_nodes}", "--ntasks-per-node=1"]
    directives += [f"--gpus-per-node={gpu_type}:{gpus}" if gpu_type else f"--gpus-per-node={gpus}"]
    directives += [
        f"--time={_time(plan, asked.task)}",
        "--output=%x-%A_%a.out" if _copies(request, plan) else "--output=%x-%j.out",
    ]
    if _copies(request, plan):
        directives += [f"--array=1-{plan['dp_size']}"]
    if cluster(offer.cluster).name == "Alvis":
        directives.insert(1, "--partition=alvis")
    else:
        lines += [
            f"# FILL IN what nobody has published of {offer.cluster}: the partition, and a GPU type if it asks for one:"
        ]
        lines += ["# #SBATCH --partition="]
    lines += ["# Put your project in place of PROJECT."]
    return [*lines, *(f"#SBATCH {each}" for each in directives), "set -euo pipefail"]


def _copies(request: Mapping, plan: Mapping) -> bool:
    return request["task"] == "serve" and plan["dp_size"] > 1


def _time(plan: Mapping, task: str) -> str:
    hours = SERVED_HOURS if task == "serve" else min(LONGEST, int(plan["seconds"][1] // 3600) + 1)
    return f"{hours // 24}-{hours % 24:02}:00:00"


def _serving(request: Mapping, plan: Mapping) -> list[str]:
    asked = read_request(request)
    offer = next(each for each in asked.where if each.card.name == plan["card"])
    options = " ".join(shlex.quote(word) for word in _vllm_options(request, plan))
    model = repository(request, plan)
    note = f"{plan['format']} weights of {asked.model.name}: a folder, or a name on the Hugging Face hub"
    lines = ['fail() { echo "llmhw-plan: $*" >&2; exit 1; }', ""]
    if model:
        lines += [f"model={model}"]
    else:
        lines += [f"model=  # FILL IN: {note}", '[ -n "$model" ] || fail "name the weights in the line model="']
    lines += [f"options=({options})"]
    if offer.cluster is None:
        if plan["n_nodes"] > 1:
            raise BadPlan("no script for several nodes without Slurm: start vLLM on each with --nnodes and --node-rank")
        copies = f" --data-parallel-size {plan['dp_size']}" if plan["dp_size"] > 1 else ""
        return [*lines, f'vllm serve "$model" --port 8000{copies} "${{options[@]}}"']
    if offer.cluster == "Alvis":
        lines += [f"image={ALVIS_IMAGE}  # see what there is: ls {ALVIS_IMAGE.rpartition('/')[0]}"]
        lines += [f"export HF_HOME={ALVIS_MODELS}  # models that stand there; or a folder of your project"]
    else:
        lines += [f"image=  # FILL IN: a container with vLLM for Arm CPUs (aarch64), as {offer.cluster} has"]
        lines += ["export HF_HOME=  # FILL IN: a folder of your project with the model"]
        lines += ['[ -n "$HF_HOME" ] || fail "name the folder of the models in the line HF_HOME="']
    lines += ['[ -e "$image" ] || fail "no container \'$image\': name one in the line image="']
    lines += [
        "# Compute nodes may not reach the internet: nothing is downloaded.",
        "export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1",
        "",
    ]
    port = "port=$((8000 + SLURM_ARRAY_TASK_ID))" if _copies(request, plan) else "port=8000"
    lines += [port, 'echo "served at http://$(hostname):$port/v1"']
    if offer.n_nodes(plan["tp_size"] * plan["pp_size"]) == 1:
        return [*lines, 'apptainer exec --nv "$image" vllm serve "$model" --port "$port" "${options[@]}"']
    lines += [
        f"# One process a node (vLLM {NNODES_SINCE} or newer); the first answers, the others only compute.",
        'read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "export image model port head",
        "# shellcheck disable=SC2016  # each node fills in its own number",
        "srun bash -c '",
        '  rank=(--nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master-addr "$head")',
        '  [ "$SLURM_NODEID" = 0 ] || rank+=(--headless)',
        '  exec apptainer exec --nv "$image" vllm serve "$model" --port "$port" "${rank[@]}" "$@"',
        '\' vllm "${options[@]}"',
    ]
    return lines
