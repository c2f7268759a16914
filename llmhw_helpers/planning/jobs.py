"""A job: a request, the plan that was chosen, and what a script needs to know of both."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..costs.places import Offer
from ..costs.requests import Request, read_request
from ..specs.clusters import CLUSTERS

# of Alvis: C3SE's course material, and job scripts that its users have published
ALVIS_MODELS = "/mimer/NOBACKUP/Datasets/LLM/huggingface"
# srun does not take it from the job (since Slurm 22.05: https://slurm.schedmd.com/srun.html#OPT_cpus-per-task)
CORES = '--cpus-per-task="$SLURM_CPUS_PER_TASK"'


class BadPlan(ValueError):
    """A plan that no script is written for."""


@dataclass(frozen=True)
class Job:
    """What a script is written from.

    Attributes:
        asked: the request, read.
        offer: the cards.
        plan: as `costs.planner.answer` gives it.
    """

    asked: Request
    offer: Offer
    plan: Mapping
    fail = 'fail() { echo "llmhw-plan: $*" >&2; exit 1; }'  # ends the script with a line

    @classmethod
    def of(cls, request: Mapping, plan: Mapping) -> "Job":
        """The job that a plan among the answers to `request` makes."""
        asked = read_request(request)
        offer = next(each for each in asked.where if (each.card.name, each.cluster) == (plan["card"], plan["cluster"]))
        return cls(asked, offer, plan)

    @property
    def is_array(self) -> bool:
        """Whether the copies of a served model are tasks of an array."""
        return self.asked.task == "serve" and self.plan["dp_size"] > 1 and self.offer.cluster is not None

    @property
    def n_nodes(self) -> int:
        """Nodes of the job, or of one task of its array."""
        n_gpus = self.plan["tp_size"] * self.plan["pp_size"]
        return self.offer.n_nodes(n_gpus if self.is_array else self.plan["n_gpus"])

    @property
    def gpus_per_node(self) -> int:
        """GPUs of each of its nodes."""
        n_gpus = self.plan["tp_size"] * self.plan["pp_size"] * (1 if self.is_array else self.plan["dp_size"])
        return -(-n_gpus // self.n_nodes)

    @property
    def cores_per_node(self) -> int:
        """The cores that come with the GPUs of a node."""
        return self.gpus_per_node * int(CLUSTERS[self.offer.cluster].node(self.offer.card.name).cores_per_gpu.value)

    @property
    def hours(self) -> int:
        """Of a run that trains, rounded up."""
        return int(self.plan["seconds"][1] // 3600) + 1

    @property
    def longest_hours(self) -> int:
        """That a job may take on this cluster."""
        return int(CLUSTERS[self.offer.cluster].longest_job.value)

    @property
    def n_runs(self) -> int:
        """Jobs that a run that trains takes, one after the other."""
        if self.asked.task == "serve" or self.offer.cluster is None:
            return 1
        return -(-self.hours // self.longest_hours)

    def repository(self) -> str | None:
        """Where the Hugging Face hub has the weights; None where nobody says, or another format has to be found."""
        found = re.match(r"config\.json of (\S+/\S+) on the Hugging Face hub", self.asked.model.source)
        as_published = self.asked.task != "serve" or self.plan["format"] in ("bf16", "fp16")
        return found[1] if found and as_published else None

    def to_fill_in(self, name: str, value: str | None, what: str) -> list[str]:
        """A setting with its value; without one a line to fill in, and another that says so when it is not."""
        if value:
            return [f"{name}={value}"]
        return [f"{name}=  # FILL IN: {what}", f'[ -n "${name}" ] || fail "fill in the line {name}="']

    def weights(self) -> list[str]:
        """The line that names the model."""
        what = f"{self.plan['format']} weights of {self.asked.model.name}: a folder, or a name on the Hugging Face hub"
        return self.to_fill_in("model", self.repository(), what)

    def container(self, of_alvis: str | None, what: str) -> list[str]:
        """The container on a cluster, and where its models stand; nothing is loaded from the internet."""
        if self.offer.cluster is None:
            return []
        alvis = self.offer.cluster == "Alvis"
        arm = "" if alvis else ", for Arm CPUs"
        return [
            *self.to_fill_in("image", of_alvis if alvis else None, f"a container with {what}{arm}"),
            '[ -e "$image" ] || fail "no container $image: name another in the line image="',
            *self.to_fill_in("models", ALVIS_MODELS if alvis else None, "a folder with models of the Hugging Face hub"),
            "# Compute nodes may not reach the internet: nothing is loaded from there.",
            'export HF_HOME="$models" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1',
            "# What is compiled is kept beside the job: a home folder is small.",
            'export XDG_CACHE_HOME="$PWD/llmhw-cache" TRITON_CACHE_DIR="$PWD/llmhw-cache/triton"',
            'mkdir -p "$TRITON_CACHE_DIR" || fail "cannot write into $PWD: submit from a folder with room"',
        ]
