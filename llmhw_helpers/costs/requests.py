"""What somebody asks the planner for: read from a mapping, as JSON gives it, and checked field by field."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..specs.architectures import Model
from ..specs.configs import from_config
from ..specs.figures import look_up
from ..specs.flavours import Flavour
from ..specs.models import model as find_model
from ..specs.serving_flavours import SERVING_FLAVOURS, serving_flavour
from ..specs.serving_support import PUBLISHED
from ..specs.settings import OneLine
from .places import Offer, offers
from .training import CHINCHILLA_TOKENS_PER_PARAMETER

TASKS = ("serve", "fine-tune", "train")
METHODS = ("lora", "qlora", "full")
ROUGH = {"16 bits": ("bf16", "fp16"), "int4": ("AWQ int4", "GPTQ int4")}  # names that stand for several formats
USUAL = ("bf16", "fp16", "FP8 W8A8", "INT8 W8A8", "AWQ int4", "GPTQ int4")  # what models are published in for vLLM


class BadRequest(OneLine, ValueError):
    """A request that cannot be read, or contradicts itself; `nearest` says what would do."""

    def __init__(self, said: str, nearest: str = ""):
        super().__init__(said)
        self.nearest = nearest


@dataclass(frozen=True)
class Request:
    """A model, a task, where to run, and what is wished for.

    Attributes:
        model, task, where: a `Model`; ``"serve"``, ``"fine-tune"`` or ``"train"``; kinds of cards.
        formats: of the weights, to choose from when serving.
        named: the formats were asked for by name, so that one whose loss nobody has measured may be taken.
        max_loss: quality that one is ready to lose, as in `costs.flavours`.
        prompt, answer, users: tokens of a question and of its answer; answers written at the same time.
        tokens_per_s, first_token_s: wished for each user: at least (0: no such wish), and at most (None: no such wish).
        utilisation: share of the memory that the server may use (vLLM's ``--gpu-memory-utilization``).
        seq_len, batch_tokens, n_tokens: tokens of a text, of an optimizer step on all GPUs, and of the whole run.
        method: of fine-tuning: ``"lora"``, ``"qlora"`` or ``"full"``.
        days: the longest that training may take; 0 for as long as it needs.
        notes: what was taken for granted.
    """

    model: Model
    task: str
    where: tuple[Offer, ...]
    formats: tuple[Flavour, ...] = ()
    named: bool = False
    max_loss: float = 0.03
    prompt: int = 1000
    answer: int = 300
    users: int = 8
    tokens_per_s: float = 10.0
    first_token_s: float | None = None
    utilisation: float = 0.9
    seq_len: int = 2048
    batch_tokens: int = 0
    n_tokens: int = 0
    method: str = "full"
    days: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def context(self) -> int:
        """Tokens that a text may grow to: prompt and answer."""
        return self.prompt + self.answer


COUNT, NUMBER = "a whole number", "a number"
# what a request may say beside model, task and where: kind, least, most, tasks that it belongs to
FIELDS = {
    "n_gpus": (COUNT, 1, 10**6, TASKS),
    "formats": (None, 0, 0, ("serve",)),
    "max_loss": (NUMBER, 0, 1, ("serve",)),
    "prompt": (COUNT, 1, 10**8, ("serve",)),
    "answer": (COUNT, 1, 10**8, ("serve",)),
    "users": (COUNT, 1, 10**6, ("serve",)),
    "tokens_per_s": (NUMBER, 0, 10**6, ("serve",)),
    "first_token_s": (NUMBER, 0.001, 10**6, ("serve",)),
    "utilisation": (NUMBER, 0.1, 1, ("serve",)),
    "seq_len": (COUNT, 1, 10**8, ("fine-tune", "train")),
    "batch_tokens": (COUNT, 1, 10**12, ("fine-tune", "train")),
    "n_tokens": (COUNT, 1, 10**18, ("fine-tune", "train")),
    "days": (NUMBER, 0, 10**5, ("fine-tune", "train")),
    "method": (None, 0, 0, ("fine-tune",)),
}
NEEDED = ("model", "task", "where")


def read_request(said: object) -> Request:
    """The request that `said` makes; what it leaves out, or says with None, takes its usual value.

    Raises:
        BadRequest: not a mapping, a field that is missing, unknown or of another task, a value that cannot be.
        UnknownName: a model, task, card, format or method that is not here; the message names the nearest.
        ValueError: a config.json that cannot be read.

    >>> asked = read_request({"model": "Llama-3.1-8B", "task": "serve", "where": "Alvis", "users": 4})
    >>> asked.users, asked.context, len(asked.where)
    (4, 1300, 5)
    >>> read_request({"model": "Llama-3.1-8B", "task": "serve", "where": "Alvis", "users": 0})
    Traceback (most recent call last):
        ...
    llmhw_helpers.costs.requests.BadRequest: users is 0: a whole number from 1 to 1000000 is asked for
    """
    if not isinstance(said, Mapping):
        raise BadRequest(f"a request is a mapping of fields to values, not {_shown(said)}")
    said = _fields(said)
    if missing := [name for name in NEEDED if not said.get(name)]:
        raise BadRequest(f"the request lacks {' and '.join(missing)}")
    task = look_up(str(said["task"]), {name: name for name in TASKS}, "task")
    strange = [key for key in said if key in FIELDS and task not in FIELDS[key][3]]
    if strange:
        raise BadRequest(f"{strange[0]} means nothing for the task {task!r}: leave it out")
    given = {key: _checked(key, value) for key, value in said.items() if key in FIELDS and FIELDS[key][0]}
    names = said["where"] if isinstance(said["where"], list | tuple) else [said["where"]]
    if not all(isinstance(name, str) for name in names):
        raise BadRequest(f"where is {_shown(said['where'])}: the name of a cluster or card is asked for, or a list")
    model, notes = _model(said["model"])
    where = offers(said["where"], given.pop("n_gpus", None))
    if task == "serve":
        of = said.get("formats")
        asked = Request(model, task, where, _formats(of, model), of is not None, notes=notes, **given)
        _within(model, asked.context, f"a prompt of {asked.prompt} tokens and an answer of {asked.answer}")
        return asked
    asked = Request(model, task, where, notes=notes, **(_training(model, task, said) | given))
    _within(model, asked.seq_len, f"a text of {asked.seq_len} tokens")
    return asked


def _fields(said: Mapping) -> dict:
    """What is said, by the fields' own names: ``Users`` is ``users``."""
    names, fields = {name: name for name in (*NEEDED, *FIELDS)}, {}
    for key, value in said.items():
        name = look_up(str(key), names, "field of a request")
        if value is not None and name in fields:
            raise BadRequest(f"{name} is said twice: leave one out")
        if value is not None:
            fields[name] = value
    return fields


def _within(model: Model, n_tokens: int, what: str) -> None:
    if n_tokens > model.context_length:
        nearest = f"{model.context_length} tokens in all"
        raise BadRequest(f"{what} are more than the {model.context_length} that {model.name} is made for", nearest)


def _training(model: Model, task: str, said: Mapping) -> dict:
    """The usual run: fine-tuning on ten million tokens, training on 20 for each parameter (arXiv:2203.15556)."""
    tunes = task == "fine-tune"
    method = look_up(str(said.get("method", "lora")), {name: name for name in METHODS}, "method") if tunes else "full"
    seq_len = said.get("seq_len", min(model.context_length, 2048 if tunes else 4096))
    n_tokens = 10**7 if tunes else CHINCHILLA_TOKENS_PER_PARAMETER * model.n_params
    usual = {"batch_tokens": 2**17, "days": 1.0} if tunes else {"batch_tokens": 2**20, "days": 30.0}
    return usual | {"method": method, "seq_len": seq_len, "n_tokens": n_tokens}


def _model(said: object) -> tuple[Model, tuple[str, ...]]:
    if isinstance(said, Model):
        return said, ()
    if isinstance(said, str):
        return find_model(said.rstrip("/").rpartition("/")[2]), ()  # with or without the organisation before it
    if not isinstance(said, Mapping):
        raise BadRequest(f"model is {_shown(said)}: a name, or what stands in a config.json, is asked for")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = from_config(said)
    notes = [str(each.message) for each in caught]
    if said.get("quantization_config"):
        notes.append("The file says that its weights are quantised. That is not read: name their format in formats.")
    one_line = " ".join(read.name.split())  # it stands in scripts, where a second line would be run
    return replace(read, name=one_line), tuple(notes)


def _formats(said: object, model: Model) -> tuple[Flavour, ...]:
    """Those that are named; else the usual ones, or of a model that is published in another, that and bf16."""
    if said is None:
        published = PUBLISHED.get(model.name)
        return tuple(SERVING_FLAVOURS[name] for name in ((published, "bf16") if published else USUAL))
    names = [said] if isinstance(said, str) else said
    if not isinstance(names, list | tuple) or not names:
        raise BadRequest(f"formats is {_shown(said)}: a list of names is asked for, such as ['bf16', 'int4']")
    found = [each for name in names for each in (ROUGH.get(str(name).lower()) or (serving_flavour(str(name)).name,))]
    return tuple(SERVING_FLAVOURS[name] for name in dict.fromkeys(found))


def _checked(key: str, value: object) -> float | int:
    kind, least, most, _ = FIELDS[key]
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not least <= value <= most or (kind == COUNT and value != int(value)):
        raise BadRequest(f"{key} is {_shown(value)}: {kind} from {least} to {most} is asked for")
    return int(value) if kind == COUNT else float(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
