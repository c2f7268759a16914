"""Language models by name, and any other from its Hugging Face config.json; the oracle of each is its exact count."""

import contextlib
import re

from .architectures import Model
from .configs import ARCHITECTURES, from_config
from .figures import UnknownName, look_up
from .models_deepseek import DEEPSEEKS
from .models_gemma import GEMMAS
from .models_llama import LLAMAS
from .models_mistral import MISTRALS
from .models_other import OTHERS
from .models_qwen import QWENS

__all__ = ["ARCHITECTURES", "MODELS", "OTHER_NAMES", "from_config", "model"]

MODELS = {each.name: each for each in (*LLAMAS, *QWENS, *MISTRALS, *GEMMAS, *DEEPSEEKS, *OTHERS)}
# A name without a version is the first one's, which had none beside it.
OTHER_NAMES = {
    "Mistral-7B": "Mistral-7B-v0.1",
    "Mixtral-8x7B-v0.1": "Mixtral-8x7B",
    "Mixtral-8x22B-v0.1": "Mixtral-8x22B",
    "Mistral-Small-24B-2501": "Mistral-Small-24B",
    "Mistral-Nemo-2407": "Mistral-Nemo-12B",
    "OLMo-2-1124-7B": "OLMo-2-7B",
    "stablelm-3b-4e1t": "StableLM-3B",
    "TinyLlama-1.1B-v1.0": "TinyLlama-1.1B",
    "vicuna-7b-v1.5": "Llama-2-7B",
    "vicuna-13b-v1.5": "Llama-2-13B",
    "zephyr-7b-beta": "Mistral-7B-v0.1",
    "Codestral-22B-v0.1": "Codestral-22B",
    "Mistral-Large-2407": "Mistral-Large-123B",
    "DeepSeek-V3-0324": "DeepSeek-V3",
    "DeepSeek-R1-0528": "DeepSeek-R1",
    "Llama-3.1-Nemotron-70B": "Llama-3.1-70B",
    **{f"DeepSeek-{each}": each for each in MODELS if each.startswith("R1-")},
    **{f"Meta-{each}": each for each in MODELS if each.startswith("Llama-3")},
    **{f"Qwen2.5-Coder-{size}": f"Qwen2.5-{size}" for size in ("0.5B", "3B", "7B", "14B", "32B")},
}
# Whoever tunes a model for conversation leaves its architecture as it is.
TUNED = re.compile(r"[-_ ](instruct|thinking|chat|it|base|pt|hf)(?![a-z0-9])", re.IGNORECASE)
_NAMED = MODELS | {name: MODELS[of] for name, of in OTHER_NAMES.items()}


def model(name: str) -> Model:
    """The model called `name`; `UnknownName` with the nearest names where there is none.

    Upper and lower case, punctuation, an organisation before the name, and words that say that it was tuned for
    conversation make no difference, but where that model has an entry of its own.

    >>> model("llama 3.1 8b").n_params
    8030261248
    >>> model("meta-llama/Llama-3.1-8B-Instruct").name, model("DeepSeek-R1-Distill-Qwen-7B").name
    ('Llama-3.1-8B', 'R1-Distill-Qwen-7B')
    >>> model("Qwen3-9B")
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.figures.UnknownName: unknown model 'Qwen3-9B'; did you mean Qwen3-8B, Qwen3-4B or Qwen3-32B?
    """
    short = name.rpartition("/")[2]
    for spelling in (short, TUNED.sub("", short)):
        with contextlib.suppress(UnknownName):
            return look_up(spelling, _NAMED, "model")
    return look_up(short, MODELS, "model")
