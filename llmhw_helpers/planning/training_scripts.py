"""Scripts that train, started by torchrun on every node (https://docs.pytorch.org/docs/stable/elastic/run.html).

Adapters: transformers' Trainer with peft, in a small program that the script writes. Everything else: Megatron-LM,
whose options say what a plan says (megatron/training/arguments.py), for models that it builds from options alone.
"""

import shlex

from ..specs.architectures import Model
from .jobs import CORES, Job

PORT = 29500
CHECKPOINTS = 20  # in a run: what a job that ends early has to do again is a twentieth of it
LEFT_MINUTES = 30  # of a job when Megatron-LM saves and stops by itself
OPTIONS_SAY = ("biases", "norms of queries and keys")  # beside a plain Llama, what Megatron's options can say

ADAPTERS = '''\
"""Fine-tune adapters on a model of the Hugging Face hub. Texts: a file with {{"text": "..."}} in each line."""
import json
import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer{imports}, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

name, texts, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
ids = []
with open(texts, encoding="utf-8") as lines:
    for line in lines:
        ids += [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
n = {seq_len}
blocks = [ids[i : i + n] for i in range(0, len(ids) - n + 1, n)]
if not blocks:
    sys.exit(f"{{texts}}: {{len(ids)}} tokens are less than one text of {{n}}")
model = AutoModelForCausalLM.from_pretrained(
    name,
    dtype=torch.{dtype},{loading}
)
lora = LoraConfig(r={rank}, lora_alpha={alpha}, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(model, lora)
arguments = TrainingArguments(
    out,
    per_device_train_batch_size={batch_size},
    gradient_accumulation_steps={n_micro_batches},
    max_steps={n_steps},
    learning_rate=2e-4,
    {mixed}=True,
    logging_steps=10,
    save_steps={save_steps},
    save_total_limit=2,
    report_to="none",{further}
)
trainer = Trainer(model, arguments, train_dataset=[{{"input_ids": ids, "labels": ids}} for ids in blocks])
trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if os.path.isdir(out) else None)
trainer.save_model(out)
'''
FOUR_BITS = """
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.{dtype},
        bnb_4bit_quant_storage=torch.{dtype},
    ),"""
ON_ITS_GPU = '\n    device_map={"": int(os.environ["LOCAL_RANK"])},'
RECOMPUTED = '\n    gradient_checkpointing=True,\n    gradient_checkpointing_kwargs={"use_reentrant": False},'


def training_lines(job: Job) -> list[str]:
    """What comes after the head of a script that trains."""
    adapts = job.asked.method != "full"
    program = ["lora.py"] if adapts else ["$megatron/pretrain_gpt.py"]
    needs = "PyTorch, transformers and peft" if adapts else "PyTorch and Megatron-LM"
    lines = [*(job.weights() if adapts else []), *job.container(None, needs), ""]
    lines += _adapters(job) if adapts else _megatron(job)
    return [*lines, "", *_torchrun(job, program)]


def _torchrun(job: Job, program: list[str]) -> list[str]:
    here = f"torchrun --nnodes {job.n_nodes} --nproc-per-node {job.gpus_per_node}"
    if job.offer.cluster is None:
        return [f'{here} --standalone "{program[0]}" "${{options[@]}}"']
    meeting = f'--rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:{PORT}"'
    return [
        'read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f'srun {CORES} apptainer exec --nv --bind "$models" "$image" {here} \\',
        f'  {meeting} "{program[0]}" "${{options[@]}}"',
    ]


def _adapters(job: Job) -> list[str]:
    plan, asked = job.plan, job.asked
    dtype, mixed = ("float16", "fp16") if "bf16" not in job.offer.card.dtypes else ("bfloat16", "bf16")
    four_bits, sharded, again = asked.method == "qlora", plan["zero"] == 3, plan["recompute"] == "full"
    tokens = plan["dp_size"] * plan["batch_size"] * plan["n_micro_batches"] * asked.seq_len
    n_steps = max(1, round(asked.n_tokens / tokens))
    further = RECOMPUTED if again and not sharded else ""
    if sharded:  # bitsandbytes' 4 bits are divided by the first FSDP alone
        settings = {"version": 1 if four_bits else 2, "reshard_after_forward": True, "activation_checkpointing": again}
        settings |= {"cpu_ram_efficient_loading": True}
        further = f"\n    fsdp=True,\n    fsdp_config={settings},"
    program = ADAPTERS.format(
        imports=", BitsAndBytesConfig" if four_bits else "",
        loading=FOUR_BITS.format(dtype=dtype) + ("" if sharded else ON_ITS_GPU) if four_bits else "",
        seq_len=asked.seq_len,
        dtype=dtype,
        rank=16,
        alpha=32,
        batch_size=plan["batch_size"],
        n_micro_batches=plan["n_micro_batches"],
        n_steps=n_steps,
        save_steps=max(1, n_steps // CHECKPOINTS),
        mixed=mixed,
        further=further,
    )
    texts = job.to_fill_in("texts", None, 'a file with {"text": "..."} in each line')
    return [*texts, 'options=("$model" "$texts" adapters)', "cat > lora.py <<'PYTHON'", *program.splitlines(), "PYTHON"]


def _megatron(job: Job) -> list[str]:
    """Settings of Megatron-LM; what it cannot build from options is to be filled in."""
    plan, asked = job.plan, job.asked
    texts = plan["dp_size"] * plan["batch_size"] * plan["n_micro_batches"]
    n_samples = max(1, round(asked.n_tokens / asked.seq_len))
    strange = asked.model.unlike_llama(OPTIONS_SAY)
    strange += [kind.kind for kind in [asked.model.rope_scaling] if kind and kind.kind != "llama3"]
    options = [] if strange else _shape(asked.model)
    options += ["--seq-length", asked.seq_len, "--max-position-embeddings", asked.seq_len]
    options += ["--micro-batch-size", plan["batch_size"], "--global-batch-size", texts]
    options += ["--train-samples", n_samples, "--lr", "3e-4", "--bf16"]
    options += ["--tensor-model-parallel-size", plan["tp_size"], "--pipeline-model-parallel-size", plan["pp_size"]]
    options += ["--sequence-parallel"] if plan["tp_size"] > 1 else []
    options += _stages(asked.model, plan["pp_size"])
    options += {1: ["--use-distributed-optimizer"], 3: _FSDP2}.get(plan["zero"], [])
    options += _RECOMPUTE if plan["recompute"] == "full" else []
    options += ["--save-interval", max(1, n_samples // texts // CHECKPOINTS)]
    if job.n_runs > 1:
        options += ["--exit-duration-in-mins", 60 * job.longest_hours - LEFT_MINUTES]
    options += ["--tokenizer-type", "HuggingFaceTokenizer"]
    if "bf16" not in job.offer.card.dtypes:
        options[options.index("--bf16")] = "--fp16"
    words = shlex.join(map(str, options)).replace(" --", "\n  --")
    lines = job.to_fill_in("megatron", None, "a clone of Megatron-LM")
    lines += job.to_fill_in("data", None, "texts, as its tools/preprocess_data.py prepares them")
    lines += job.to_fill_in("tokenizer", job.repository(), "a folder, or a name on the Hugging Face hub")
    if asked.task == "fine-tune":
        lines += job.to_fill_in("checkpoint", None, "the weights, as its tools/checkpoint/convert.py writes them")
    if strange:
        lines += [f"# FILL IN: the options that build {asked.model.name}, which has {' and '.join(strange)}"]
    paths = '--tokenizer-model "$tokenizer" --data-path "$data" --save checkpoints'
    lines += [f"options=({words}\n  {paths})", "# From the last checkpoint, if an earlier job has left one."]
    lines += ["if [ -e checkpoints/latest_checkpointed_iteration.txt ]; then", "  options+=(--load checkpoints)"]
    lines += ["else", '  options+=(--finetune --load "$checkpoint")'] if asked.task == "fine-tune" else []
    return [*lines, "fi"]


_FSDP2 = ["--use-torch-fsdp2", "--no-gradient-accumulation-fusion", "--ckpt-format", "torch_dist"]
_RECOMPUTE = ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", 1]


def _shape(model: Model) -> list:
    shape = {
        "--num-layers": model.n_layers,
        "--hidden-size": model.d_model,
        "--ffn-hidden-size": model.d_ff,
        "--num-attention-heads": model.n_heads,
        "--kv-channels": model.head_dim,
        "--num-query-groups": model.n_kv_heads,
        "--rotary-base": round(model.rope_theta),
        "--norm-epsilon": model.norm_eps,
    }
    flags = ["--group-query-attention", "--swiglu", "--normalization", "RMSNorm", "--position-embedding-type", "rope"]
    flags += ["--disable-bias-linear", "--attention-dropout", "0", "--hidden-dropout", "0"]
    flags += [] if model.tied_embeddings else ["--untie-embeddings-and-output-weights"]
    flags += ["--add-qkv-bias"] if model.qkv_bias else []
    flags += ["--qk-layernorm"] if model.qk_norm else []
    if model.rope_scaling:
        flags += ["--use-rope-scaling", "--rope-scaling-factor", model.rope_scaling.factor]
    return [word for pair in shape.items() for word in pair] + flags


def _stages(model: Model, pp_size: int) -> list[str]:
    """Layers that do not divide evenly: embedding and head count as one each, as in Llama 3 405B."""
    if model.n_layers % pp_size == 0:
        return []
    return ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"]
