"""A config.json that is asked for one setting after another; what nobody has asked for in the end is unknown.

So the allow-list is the code that reads: a setting changes the result, or it is known to change nothing, or it is
refused where its name sounds as if it changed the computation, or it is named in a warning.
"""

import re
from collections.abc import Iterable, Mapping

# About training, generation, text and the file itself: nothing that changes which numbers a model computes.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _name_or_path
    architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens cache_implementation
    chunk_size_feed_forward diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task for_llm_compressor gradient_checkpointing id2label is_decoder
    is_llama_config label2id length_penalty logits_to_keep max_length min_length model_type name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_logits_to_keep num_return_sequences output_attentions
    output_hidden_states output_logits output_router_logits output_scores prefix pretraining_tp problem_type
    quantization quantization_config remove_invalid_values renormalize_logits repetition_penalty return_dict
    return_dict_in_generate suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p use_bfloat16 use_cache
    use_return_dict
    """.split()  # noqa: SIM905
)
HARMLESS_KIND = re.compile(
    r"dropout|pdrop$|^initializer|_token_ids?$|_token_index$|aux_loss|jitter|^summary_|^unsloth_|flash_?att(n|ention)"
)
# Parts of names behind which quantization, rotary positions, attention, norms, experts or a multiplier would hide.
SUSPECT = re.compile(
    r"quant|compress|rope|rotary|nope|alibi|posi|activ|(^|_)act(_|$)|attention|attn|qkv|(^|_)kv|window|sliding|chunk"
    r"|norm|(^|_)ln_|(^|_)eps|expert|moe|rout|topk|gate|glu|mlp|ffn|scal|multipl|(^|_)ratio|cap(_|$|ping)|clip|clamp|limit"
    r"|factor|bias|residual|sink|layer|head|dim(_|$)|rank|lora|causal|decoder|mamba|ssm|(^|_)conv|mup|parallel|(^|_)tie_"
    r"|ntk|yarn|(^|_)beta_(fast|slow)|xpos|bidirectional|(^|_)[a-z]*bits?(_|$)|bitnet|softmax|logit|tanh|sparse"
)
# What a Llama has: here true asks for nothing, and false does.
HAS = re.compile(
    r"(is_|use_)?(causal|rope|rotary(_emb(eddings?)?)?|rms_?norm|pre_?(layer)?norm|swiglu|glu|gated(_mlp)?)"
)
FACTORS = re.compile(r"scal|multipl|(^|_)ratio|factor")
MOST_MESSAGE = 600  # letters
LARGEST = 2**53  # no size of a model is larger, and sums and ratios of smaller numbers are safe


def shown(value: object) -> str:
    """A value in a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(message: str) -> str:
    r"""A message of one line that is read at a glance, whatever a file has put into it.

    >>> one_line("no tensor\n" + "a" * 1000)[:12], len(one_line("a" * 1000))
    ('no tensor aa', 600)
    """
    text = message if len(message) <= MOST_MESSAGE else f"{message[: MOST_MESSAGE - 205]} ... {message[-200:]}"
    return " ".join(text.splitlines()) if not text.isprintable() else text


class OneLine(Exception):
    """An error whose message is one line that is read at a glance, whatever a file has put into it."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Settings:
    """The settings of one config.json, each checked as it is read; every message begins with where they come from.

    Where a setting is missing, or null, the `defaults` (by its name) hold; `names` are those under which this file has
    some of them.
    """

    def __init__(
        self,
        values: Mapping,
        where: str,
        defaults: Mapping[str, object] | None = None,
        names: Mapping[str, str] | None = None,
    ):
        self.values, self.where, self.defaults, self._names = values, where, defaults or {}, names or {}
        self._asked: set[str] = set()

    def name(self, key: str) -> str:
        """What this file calls a setting."""
        return self._names.get(key, key)

    def wrong(self, message: str) -> ValueError:
        """The error to raise."""
        return ValueError(one_line(f"{self.where}: {message}"))

    def known(self, *keys: str) -> None:
        """These change nothing, or nothing beside what has been read."""
        self._asked.update(keys)

    def is_null(self, key: str) -> bool:
        """The setting is there, and null: not the same as missing where that means a default."""
        return self.values.get(self.name(key), "") is None

    def get(self, key: str, default: object = None) -> object:
        """A value of any kind."""
        self.known(self.name(key))
        value = self.values.get(self.name(key))
        return self.defaults.get(key, default) if value is None else value

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number."""
        value = self.get(key, default)
        if value is None:
            raise self.wrong(f"{self.name(key)!r} is missing")
        if type(value) is not int or not least <= value < LARGEST:
            raise self._is_not(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float | None = None, above: float | None = None) -> float | None:
        """A finite number, larger than `above`; None where it is missing."""
        value = self.get(key, default)
        if value is None:
            return None
        # a bool is an int for Python, and NaN is a number in its JSON
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise self._is_not(key, value, "a number")
        if above is not None and value <= above:
            raise self._is_not(key, value, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self._is_not(key, value, "true or false")
        return value

    def one_of(self, key: str, names: Iterable[str], default: str | None = None) -> str:
        """One of some names."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in names:
            raise self._is_not(key, value, f"one of {', '.join(names)}")
        return value

    def table(self, key: str) -> Mapping:
        """A table, empty where it is missing."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise self._is_not(key, value, "a table")
        return value

    def listed(self, key: str, kinds: tuple[type, ...] = (int,)) -> list | None:
        """A list of values of these types; None where it is missing."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(type(each) in kinds for each in value):
            raise self._is_not(key, value, f"a list of {' or '.join(kind.__name__ for kind in kinds)}")
        return list(value)

    def _is_not(self, key: str, value: object, what: str) -> ValueError:
        return self.wrong(f"{self.name(key)!r} is {shown(value)}, not {what}")

    def require(self, key: str, *allowed: object) -> None:
        """The setting is missing or null, or one of the values that are computed here."""
        value = self.get(key)
        if value is not None and not any(type(value) is type(each) and value == each for each in allowed):
            raise self.wrong(f"{key!r} is {shown(value)}, which has no formula here")

    def unread(self, kind: str) -> list[str]:
        """The names that nobody has read and that change nothing, as far as a name can tell.

        Raises:
            ValueError: one that may change what a model of this `kind` computes, and asks for something.
        """
        if self.values.get("use_sliding_window", True) is False:
            self.known("sliding_window", "max_window_layers")
        unread = [key for key in self.values if key not in self._asked and not _harmless(key)]
        for key in unread:
            if SUSPECT.search(str(key).lower()) and not neutral(str(key), self.values[key]):
                raise self.wrong(
                    f"{str(key)!r} is {shown(self.values[key])}, which is not known of {kind!r} and may change what it"
                    " computes: take it out if it does not"
                )
        return [shown(key) for key in unread if not neutral(str(key), self.values[key])]


def _harmless(key: object) -> bool:
    return key in HARMLESS or HARMLESS_KIND.search(str(key)) is not None


def neutral(key: str, value: object) -> bool:
    """A value with which a setting asks for nothing: null, false, an empty table, no experts, a factor of one."""
    if isinstance(value, bool) and HAS.fullmatch(key):
        return value
    if value is None or value is False or value in ("", [], {}):
        return True
    if key == "layer_types" and isinstance(value, list):
        return all(each == "full_attention" for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if value == 0:
        return key.startswith(("num_", "n_"))
    # a multiplier of the scores takes the place of 1 / sqrt(head_dim): one is not neutral there
    return value == 1 and FACTORS.search(key) is not None and not re.search("attention|attn", key)
