"""Scripts that serve: vLLM on one node, or with a stage of the model on each of several.

Tensor parallelism stays in a node. On several nodes each has a vLLM process, the first of which answers
(https://docs.vllm.ai/en/stable/serving/parallelism_scaling/, "Running vLLM with MultiProcessing").
"""

import shlex

from .jobs import CORES, Job

ALVIS_IMAGE = "/apps/containers/vLLM/vllm-0.19.1.sif"  # in job scripts that users of Alvis have published
NNODES_SINCE = "0.12"  # vLLM's release with --nnodes (pull request 23691)
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def vllm_options(job: Job) -> str:
    """Sizes and limits of a plan, as ``vllm serve`` takes them."""
    plan = job.plan
    sizes = {"--tensor-parallel-size": plan["tp_size"], "--pipeline-parallel-size": plan["pp_size"]}
    if not job.is_array:
        sizes["--data-parallel-size"] = plan["dp_size"]
    options = [word for flag, n in sizes.items() if n > 1 for word in (flag, str(n))]
    options += ["--max-model-len", str(job.asked.context), "--max-num-seqs", str(plan["batch_size"])]
    options += ["--gpu-memory-utilization", f"{job.asked.utilisation:g}"]
    dtype = DTYPES.get(plan["format"])  # what is quantised says so in its own config.json
    return shlex.join(options + (["--dtype", dtype] if dtype else []))


def serving_lines(job: Job) -> list[str]:
    """What comes after the head of a script that serves."""
    lines = [*job.weights(), f"options=({vllm_options(job)})", *job.container(ALVIS_IMAGE, "vLLM"), ""]
    lines += ["port=$((8000 + SLURM_ARRAY_TASK_ID))" if job.is_array else "port=8000"]
    lines += ['echo "served at http://$(hostname):$port/v1"']
    if job.offer.cluster is None:
        return [*lines, 'vllm serve "$model" --port "$port" "${options[@]}"']
    if job.n_nodes == 1:
        return [
            *lines,
            'apptainer exec --nv --bind "$models" "$image" vllm serve "$model" --port "$port" "${options[@]}"',
        ]
    return [
        *lines,
        f"# One process a node (vLLM {NNODES_SINCE} or newer); the first answers, the others only compute.",
        'read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "export image models model port head",
        "# shellcheck disable=SC2016  # each node fills in its own number",
        f"srun {CORES} bash -c '",
        '  rank=(--nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master-addr "$head")',
        '  [ "$SLURM_NODEID" = 0 ] || rank+=(--headless)',
        '  exec apptainer exec --nv --bind "$models" "$image" vllm serve "$model" --port "$port" "${rank[@]}" "$@"',
        '\' vllm "${options[@]}"',
    ]
