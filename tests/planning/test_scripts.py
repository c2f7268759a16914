"""Job scripts: clean for shellcheck, run with stand-ins for Slurm and vLLM, with the sizes of the plan."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.planning.scripts import BadPlan, job_script, vllm_command

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
SERVE = {"task": "serve", "tokens_per_s": 0}
KINDS = {
    "one node": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis A100-80GB", "formats": ["bf16"]},
    "several nodes": SERVE | {"model": "Llama-3.1-405B", "where": "Alvis A100-80GB", "formats": ["bf16"]},
    "quantised": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis", "formats": ["int4"]},
    "copies": SERVE | {"model": "Llama-3.1-8B", "where": "Alvis T4", "formats": ["int4"], "users": 400},
    "Arrhenius": SERVE | {"model": "Llama-3.1-405B", "where": "Arrhenius", "formats": ["bf16"]},
    "LoRA": {"task": "fine-tune", "model": "Llama-3.1-8B", "where": "Alvis A40", "n_gpus": 8},
    "QLoRA": {"task": "fine-tune", "model": "Llama-3.1-8B", "where": "Alvis A40", "n_gpus": 1, "method": "qlora"},
    "QLoRA, divided": {"task": "fine-tune", "model": "Llama-3.1-70B", "where": "2 x A40", "method": "qlora"},
    "full": {"task": "fine-tune", "model": "Qwen2.5-7B", "where": "Alvis A100-80GB", "method": "full"},
    "training": {"task": "train", "model": "Llama-3.1-405B", "where": "Arrhenius", "days": 0},
    "another kind": {"task": "train", "model": "Mixtral-8x7B", "where": "Alvis A100-80GB", "days": 0},
    "at home": SERVE | {"model": "Llama-3.1-8B", "where": "A40", "formats": ["bf16"]},
}


@cache
def first_of(kind):
    """The first plan of a kind, and its script."""
    said = answer(KINDS[kind])
    assert said["ok"], said
    return said["plans"][0], job_script(KINDS[kind], said["plans"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_shellcheck(kind):
    _, script = first_of(kind)
    result = subprocess.run([SHELLCHECK, "-s", "bash", "-"], input=script, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout


def directives(script):
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.split("=", 1) for line in lines)


ON_SLURM = [kind for kind in KINDS if kind not in ("at home", "QLoRA, divided")]


@pytest.mark.parametrize("kind", ON_SLURM)
def test_slurm_gives_what_a_copy_or_a_run_takes(kind):
    (plan, script), serves = first_of(kind), KINDS[kind]["task"] == "serve"
    asked = directives(script)
    gpus = int(re.search(r"\d+$", asked["gpus-per-node"])[0])
    assert gpus * int(asked["nodes"]) == (plan["tp_size"] * plan["pp_size"] if serves else plan["n_gpus"])
    assert asked["account"] == "PROJECT"
    hours = 0 if serves else plan["seconds"][1] / 3600
    assert ("array" in asked) == ((serves and plan["dp_size"] > 1) or hours > 7 * 24)


def test_alvis_names_its_cards():
    plan, script = first_of("one node")
    asked = directives(script)
    assert (asked["partition"], asked["gpus-per-node"]) == ("alvis", f"A100fat:{plan['n_gpus']}")


def test_what_nobody_published_of_arrhenius_is_to_be_filled_in():
    _, script = first_of("Arrhenius")
    assert script.count("FILL IN") == 2  # container, folder of the models
    assert directives(script)["partition"] == "gpu"
    assert "as its users have published" in script


def test_a_run_longer_than_a_job_is_several_in_turn():
    plan, script = first_of("training")
    runs = -(-(int(plan["seconds"][1] // 3600) + 1) // 72)
    asked = directives(script)
    assert runs > 1000  # Slurm's longest array
    assert (asked["time"], asked["array"]) == ("3-00:00:00", "1-1000%1")
    assert f"{runs} in turn, each from the last one's checkpoint (an array holds 1000: submit again)" in script
    assert "--exit-duration-in-mins 4290" in script
    assert "array" not in directives(first_of("LoRA")[1])


def test_megatron_goes_on_from_its_last_checkpoint(tmp_path):
    _, script = first_of("full")
    first, calls = run(script, tmp_path, SLURM_NNODES="1", SLURM_JOB_ID="7")
    assert first.returncode == 0, first.stderr
    assert "--finetune --load /checkpoint" in calls[0]
    (tmp_path / "calls").unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("10")
    _, calls = run(script, tmp_path, SLURM_NNODES="1", SLURM_JOB_ID="8")
    assert "--save checkpoints --load checkpoints" in calls[0]
    assert "--finetune" not in calls[0]


def test_caches_lie_beside_the_job_and_a_full_folder_is_said(tmp_path):
    _, script = first_of("one node")
    (tmp_path / "llmhw-cache").write_text("in the way")
    result, calls = run(script, tmp_path)
    assert (result.returncode, calls) == (1, [])
    assert result.stderr.splitlines()[-1].startswith(f"llmhw-plan: cannot write into {tmp_path}")


STAND_INS = {
    "apptainer": 'while [ "${1##*.}" != sif ]; do shift; done; shift; exec "$@"',
    "vllm": 'printf "%s " "$@" >> "$CALLS"; echo >> "$CALLS"',
    "scontrol": "echo node1; echo node2; echo node3",
    "torchrun": 'printf "%s " "$@" >> "$CALLS"',
    "srun": 'shift; for SLURM_NODEID in $(seq 0 $((SLURM_NNODES - 1))); do export SLURM_NODEID; "$@"; done',
    "hostname": "echo node1",
}


def run(script, tmp_path, **env):  # every line that is to be filled in gets its own name
    """The script's status and message, and how vLLM was called."""
    bin = tmp_path / "bin"
    bin.mkdir(exist_ok=True)
    for name, body in STAND_INS.items():
        (bin / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin / name).chmod(0o755)
    image, calls = tmp_path / "vllm.sif", tmp_path / "calls"
    image.touch()
    script = re.sub(r"^image=\S*", f"image={image}", script, flags=re.MULTILINE)
    script = re.sub(r"^(\w+)=  # FILL IN.*", r"\1=/\1", script, flags=re.MULTILINE)
    env = {
        "PATH": f"{bin}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "4",
    } | env
    command = ["bash", "-c", script]
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_one_process_on_one_node(tmp_path):
    plan, script = first_of("one node")
    result, calls = run(script, tmp_path)
    assert result.returncode == 0, result.stderr
    sizes = f"--tensor-parallel-size {plan['tp_size']} --max-model-len 1300 --max-num-seqs {plan['batch_size']}"
    assert calls == [
        f"serve meta-llama/Llama-3.1-70B --port 8000 {sizes} --gpu-memory-utilization 0.9 --dtype bfloat16 "
    ]


def test_one_process_on_each_of_several_nodes(tmp_path):
    plan, script = first_of("several nodes")
    result, calls = run(script, tmp_path, SLURM_NNODES="3")
    assert result.returncode == 0, result.stderr
    assert [f"--nnodes 3 --node-rank {i} --master-addr node1" in call for i, call in enumerate(calls)] == 3 * [True]
    assert ["--headless" in call for call in calls] == [False, True, True]
    assert all(f"--pipeline-parallel-size {plan['pp_size']}" in call for call in calls)


@pytest.mark.parametrize("kind", ["several nodes", "LoRA", "full", "training"])
def test_srun_gives_its_tasks_the_cores_of_the_job(kind):
    """Since Slurm 22.05 it does not take them from the job's own option."""
    _, script = first_of(kind)
    assert 'srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ' in script
    assert int(directives(script)["cpus-per-task"]) > 1


def test_copies_have_a_port_each(tmp_path):
    _, script = first_of("copies")
    result, calls = run(script, tmp_path, SLURM_ARRAY_TASK_ID="2")
    assert result.returncode == 0, result.stderr
    assert "--port 8002" in calls[0]


def test_a_line_that_is_not_filled_in_is_said(tmp_path):
    _, script = first_of("quantised")
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert result.stderr == "llmhw-plan: fill in the line model=\n"


def test_the_command_alone():
    plan, _ = first_of("one node")
    command = vllm_command(KINDS["one node"], plan)
    assert command.startswith(f"vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size {plan['tp_size']} ")


def test_no_command_for_several_nodes():
    with pytest.raises(BadPlan, match="several nodes"):
        vllm_command(KINDS["several nodes"], first_of("several nodes")[0])


@pytest.mark.parametrize(("kind", "n_nodes"), [("LoRA", 2), ("full", 2)])
def test_torchrun_on_every_node(tmp_path, kind, n_nodes):
    request = KINDS[kind] | {"n_gpus": 8}
    plan = next(plan for plan in answer(request)["plans"] if plan["n_gpus"] == 8)
    env = {"SLURM_NNODES": str(n_nodes), "SLURM_JOB_ID": "7"}
    result, calls = run(job_script(request, plan), tmp_path, **env)
    assert result.returncode == 0, result.stderr
    start = "--nnodes 2 --nproc-per-node 4 --rdzv-id 7 --rdzv-backend c10d --rdzv-endpoint node1:29500 "
    assert calls[0].count(start) == n_nodes


def test_megatrons_options_say_what_the_plan_says():
    plan, script = first_of("full")
    texts = plan["dp_size"] * plan["batch_size"] * plan["n_micro_batches"]
    for option in (f"--micro-batch-size {plan['batch_size']}", f"--global-batch-size {texts}", "--add-qkv-bias"):
        assert option in script
    assert ("--use-distributed-optimizer" in script, "--use-torch-fsdp2" in script) == (
        plan["zero"] == 1,
        plan["zero"] == 3,
    )
    assert ("--recompute-granularity" in script) == (plan["recompute"] == "full")
    assert '--finetune --load "$checkpoint"' in script


def test_what_megatron_does_not_build_from_options_is_to_be_filled_in():
    _, script = first_of("another kind")
    assert "# FILL IN: the options that build Mixtral-8x7B, which has a mixture of experts" in script
    assert "--num-layers" not in script


def test_four_bits_are_loaded_where_they_are_computed():
    _, one = first_of("QLoRA")
    _, divided = first_of("QLoRA, divided")
    assert ("device_map=" in one, "device_map=" in divided) == (True, False)
    assert "'version': 1" in divided
    for script in (one, divided):
        compile(script.split("<<'PYTHON'\n")[1].split("\nPYTHON\n")[0], "lora.py", "exec")


@pytest.mark.slow
def test_the_program_trains_adapters_on_two_ranks(tmp_path):
    """The program that the script writes, told to use the CPU, with transformers and peft, on a model made up here."""
    transformers, safetensors = pytest.importorskip("transformers"), pytest.importorskip("safetensors.torch")
    pytest.importorskip("peft")
    request = {"task": "fine-tune", "model": "Llama-3.1-8B", "where": "2 x A40", "seq_len": 64, "n_tokens": 512}
    request |= {"batch_tokens": 128}
    plan = next(plan for plan in answer(request)["plans"] if plan["dp_size"] == 2)
    program = job_script(request, plan).split("<<'PYTHON'\n")[1].split("\nPYTHON\n")[0]
    (tmp_path / "lora.py").write_text(program.replace("bf16=True", "use_cpu=True"))
    save_tiny_model(transformers, tmp_path / "tiny")
    (tmp_path / "texts.jsonl").write_text(50 * '{"text": "to be or not to be, that is the question"}\n')
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "lora.py", "tiny", "texts.jsonl", "adapters"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[:3000]
    trained = safetensors.load_file(tmp_path / "adapters/adapter_model.safetensors")
    ups = [tensor for name, tensor in trained.items() if "lora_B" in name]
    assert len(ups) == 2 * 7  # beside every matrix of both layers
    assert all(tensor.abs().sum() > 0 for tensor in ups)  # they begin at 0


def save_tiny_model(transformers, folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    learns = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"])
    words.train_from_iterator(["to be or not to be, that is the question"], learns)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=len(words.get_vocab()), num_key_value_heads=2, **shape)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
