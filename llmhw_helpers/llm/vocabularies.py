"""Tokenizers from a model's own files: a GGUF file's tables, or a snapshot's tokenizer.json and what stands beside it.

What the files ask for is done as llama.cpp and transformers do it, or refused in one line.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from ..specs.json_text import parse_json, read_file
from ..specs.settings import shown
from .checkpoints import BadModelFile, Checkpoint
from .tokenizer_json import check_length, read_library

# How a text is cut into words before any merge, by GGUF's name for it (llama.cpp, llm_tokenizer_bpe). SmolLM2's own
# tokenizer.json says the same: Digits(individual_digits=True), then ByteLevel with GPT-2's expression.
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS = (pre_tokenizers.Digits(individual_digits=True), GPT2)
LLAMA3 = (
    pre_tokenizers.Split(
        Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "isolated",
    ),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
)
WORDS = {
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), DIGITS),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), (GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), LLAMA3),
}
# Token types of a GGUF file that are never made by merging; the last kind only fills up the embedding's rows.
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
SPECIAL = (UNKNOWN, CONTROL)  # what a user defined is text as any other
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# GGUF's fields that change tokens; what else begins with "tokenizer." and is not listed here is refused.
TABLES = {"model", "pre", "tokens", "token_type", "merges", "scores", "token_type_count"}
IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelt so in the format
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
    "cls_token": "cls_token_id",
}
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# tokenizer.json's ways back to text, in which what is said of some tokens holds whatever follows
DECODERS = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece", "BPEDecoder"}
# The classes of tokenizer_config.json that take tokenizer.json as it stands; of the others, each asks for its own kind.
GENERIC = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
ADDED = {"add_bos_token", "add_eos_token"}
OFF = {"add_space_prefix", "add_sep_token", "remove_extra_whitespaces"}  # nothing that byte-level BPE has


@dataclass(frozen=True)
class Vocabulary:
    """What a `Tokenizer` is made of.

    Attributes:
        library: the tokenizers library's own object.
        end: the token that ends a turn.
        template: how a chat is written, or several ways by name.
        names: special tokens by the names that a template may call them by.
        ends: all tokens that end a turn.
    """

    library: Library
    end: int
    template: str | dict[str, str] | None
    names: dict[str, str]
    ends: frozenset[int]


def of_gguf(checkpoint: Checkpoint) -> Vocabulary:
    """The tokenizer that a GGUF file's tables describe.

    Raises:
        BadModelFile: they do not fit together, or ask for what is not known here.
    """
    path = checkpoint.path
    said = {key.removeprefix("tokenizer."): checkpoint.metadata[key] for key in checkpoint.metadata if _is_ours(key)}
    said = {key.removeprefix("ggml."): value for key, value in said.items()}
    kind, words = said.get("model"), said.get("pre")
    if kind != "gpt2" or words not in WORDS:
        known = ", ".join(WORDS)
        raise BadModelFile(f"{path}: the tokenizer is {kind!r} with words as {words!r}; known is 'gpt2' with {known}")
    for key, value in said.items():
        known = key in TABLES | ADDED | OFF or key.endswith("_token_id") or key.startswith("chat_template")
        if not known or (key in OFF and value):
            raise BadModelFile(f"{path}: the tokenizer says {key} = {str(value)[:40]}, which is not known here")
    tokens, merges, types = said.get("tokens", []), said.get("merges", []), said.get("token_type")
    if not tokens or not merges or types is None or len(types) != len(tokens):
        counts = f"{len(tokens)} tokens, {len(types if types is not None else [])} types, {len(merges)} merges"
        raise BadModelFile(f"{path}: the tokenizer's tables do not fit together: {counts}")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    ends = [said[key] for key in ENDS if key in said]
    outside = next((end for end in ends if not 0 <= end < len(tokens)), None if "eos_token_id" in said else -1)
    if len(vocabulary) != len(tokens) or outside is not None:
        lists = f"lists a token twice, or ends with one ({outside}) that it does not list"
        raise BadModelFile(f"{path}: the tokenizer {lists}")
    names = {name: tokens[said[key]] for name, key in IDS.items() if 0 <= said.get(key, -1) < len(tokens)}
    try:
        pairs = [tuple(merge.split(" ", 1)) for merge in merges]
        in_use = {token: i for token, i in vocabulary.items() if types[i] != UNUSED or i in ends}
        library = Library(models.BPE(in_use, pairs, ignore_merges=WORDS[words] is LLAMA3))
    except Exception as error:  # the library raises plain ones
        raise BadModelFile(f"{path}: the tokenizer's merges do not fit its tokens ({error})") from None
    rows = checkpoint.shapes.get("token_embd.weight", (0,))[0]
    if len(tokens) != rows:
        raise BadModelFile(f"{path}: {len(tokens)} tokens, and an embedding for {rows}")
    library.pre_tokenizer = pre_tokenizers.Sequence(list(WORDS[words]))
    library.decoder = decoders.ByteLevel()
    added = [(token, type_) for token, type_ in zip(tokens, types, strict=True) if type_ in (*SPECIAL, USER_DEFINED)]
    library.add_tokens([AddedToken(token, special=type_ in SPECIAL, normalized=False) for token, type_ in added])
    before = ["bos_token"] if said.get("add_bos_token", WORDS[words] is LLAMA3) else []
    after = ["eos_token"] if said.get("add_eos_token", False) else []
    if missing := [name for name in before + after if name not in names]:
        raise BadModelFile(f"{path}: the tokenizer adds a {missing[0]} to each text, and names none that it lists")
    library.post_processor = processors.TemplateProcessing(
        single=[*(names[name] for name in before), "$A", *(names[name] for name in after)],
        special_tokens=[(names[name], vocabulary[names[name]]) for name in before + after],
    )
    return Vocabulary(library, ends[0], _templates_of(said), names, frozenset(ends))


def of_snapshot(checkpoint: Checkpoint) -> Vocabulary:
    """The tokenizer of a folder with a tokenizer.json, and what the other files beside it add.

    As transformers 5 reads them: what a text begins and ends with is tokenizer.json's post-processor, whatever
    `add_bos_token` in tokenizer_config.json says; tokens that only tokenizer_config.json names are added.
    tokenizer.json itself is taken as it stands; where `tokenizer_class` is LlamaTokenizer, transformers 5 puts spaces
    of its own way (Metaspace) in the place of an older file's Prepend, which differs at spaces that begin a text and
    after special tokens.

    Raises:
        BadModelFile: there is none, or it asks for what is not known here.
    """
    folder = checkpoint.path
    library = read_library(folder)
    said = _read(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in said:
        said |= _read(folder / "special_tokens_map.json")
    if library.padding is not None:
        said = {"pad_token": library.padding["pad_token"]} | said
    names = _add_tokens(folder, library, said, most=checkpoint.shapes.get("token_embd.weight", (0,))[0])
    _refuse_unknown(folder, library, said)
    ends = _ends(folder, checkpoint.metadata, library)
    if "eos_token" in names:
        ends.insert(0, library.token_to_id(names["eos_token"]))
    if not ends:
        files = "tokenizer_config.json (eos_token) nor generation_config.json (eos_token_id)"
        raise BadModelFile(f"{folder}: no token ends a turn: neither {files} names one")
    return Vocabulary(library, ends[0], _templates_in(folder, said), names, frozenset(ends))


def _is_ours(key: str) -> bool:
    return key.startswith("tokenizer.") and key not in ("tokenizer.huggingface.json", "tokenizer.rwkv.world")


def _templates_of(said: Mapping[str, object]) -> str | dict[str, str] | None:
    named = {key.removeprefix("chat_template."): said[key] for key in said if key.startswith("chat_template.")}
    if not named:
        return said.get("chat_template")
    return {"default": said["chat_template"], **named} if "chat_template" in said else named


def _read(path: Path) -> dict:
    """The object in a JSON file; an empty one where there is no file."""
    if not path.exists():
        return {}
    try:
        found = parse_json(read_file(path))
    except ValueError as error:
        raise BadModelFile(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadModelFile(f"{path} holds no JSON object")
    return found


def _add_tokens(folder: Path, library: Library, said: Mapping[str, object], most: int) -> dict[str, str]:
    """Add the tokens that stand beside tokenizer.json, `most` of them at most; returns those with a name, by it."""
    named = {name: _token(said[name]) for name in NAMES if said.get(name)}
    others = [name for name in said if name.endswith("_token") and said[name] and isinstance(said[name], str)]
    named |= {name: _token(said[name]) for name in others}
    extra = said.get("extra_special_tokens") or said.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        named |= {name: _token(token) for name, token in extra.items()}
        extra = []
    beside, added = said.get("added_tokens_decoder") or {}, _read(folder / "added_tokens.json")
    if (n_tokens := max(map(len, (named, extra, beside, added)))) > most:  # before one is made of each
        raise BadModelFile(f"{folder}: {n_tokens} tokens beside tokenizer.json, and an embedding for {most}")
    texts = {token.content for token in named.values()}
    for text in added:
        check_length(text)
    known = {token.content: token for _, token in sorted(library.get_added_tokens_decoder().items())}
    known |= {token["content"]: _token(token) for _, token in sorted(beside.items(), key=lambda item: int(item[0]))}
    for text, _ in sorted(added.items(), key=lambda item: item[1]):
        known.setdefault(text, AddedToken(text, special=text in texts, normalized=text not in texts))
    for token in (*named.values(), *map(_token, extra)):
        known.setdefault(token.content, token)
    for text in texts:
        known[text].special = True
    library.add_tokens(list(known.values()))
    return {name: token.content for name, token in named.items()}


def _refuse_unknown(folder: Path, library: Library, said: Mapping[str, object]) -> None:
    """What would change tokens or text in a way that is not known here."""
    kind = type(library.model).__name__
    if said.get("split_special_tokens"):
        raise BadModelFile(
            f"{folder}: split_special_tokens, which cuts up the chat template's tokens, is not known here"
        )
    prefix = said.get("add_prefix_space")
    if said.get("tokenizer_class", GENERIC[0]) not in GENERIC and prefix is not None and prefix != _puts_space(library):
        other = "true, and tokenizer.json puts no space" if prefix else "false, and tokenizer.json puts a space"
        raise BadModelFile(f"{folder}: add_prefix_space is {other} before a text")
    if said.get("clean_up_tokenization_spaces") and kind != "BPE":
        raise BadModelFile(f"{folder}: clean_up_tokenization_spaces with a {kind} model is not known here")
    decoder = json.loads(library.decoder.__getstate__()) if library.decoder is not None else {}
    for step in decoder.get("decoders", [decoder]):
        if step and (step["type"] not in DECODERS or step.get("stop")):
            raise BadModelFile(f"{folder}: tokenizer.json makes text with {step}, which is not known here")
    if getattr(library.model, "dropout", None):
        raise BadModelFile(f"{folder}: tokenizer.json merges at random (dropout), which is for training alone")
    for token in library.get_added_tokens_decoder().values():
        if token.special and token.single_word:
            raise BadModelFile(f"{folder}: the special token {token.content!r} is single_word, which is not known here")


def _puts_space(library: Library) -> bool:
    """Whether a space is put before a text, as a letter."""
    text = library.normalizer.normalize_str("a") if library.normalizer else "a"
    words = library.pre_tokenizer.pre_tokenize_str(text) if library.pre_tokenizer else [(text, (0, 1))]
    return words[0][0].startswith((" ", "\N{LOWER ONE EIGHTH BLOCK}", "\u0120"))


def _ends(folder: Path, config: Mapping[str, object], library: Library) -> list[int]:
    """Tokens that end a turn, of generation_config.json; of config.json where there is none, as transformers does."""
    path = folder / "generation_config.json"
    found = (_read(path) if path.exists() else config).get("eos_token_id")
    ends = found if isinstance(found, list) else [] if found is None else [found]
    for end in ends:
        if type(end) is not int or not 0 <= end < 2**32 or library.id_to_token(end) is None:
            name = path.name if path.exists() else "config.json"
            raise BadModelFile(f"{folder}: {name} ends a turn with {shown(end)}, which tokenizer.json does not list")
    return list(ends)


def _templates_in(folder: Path, said: Mapping[str, object]) -> str | dict[str, str] | None:
    """Files of their own count before tokenizer_config.json, all of them."""
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").exists():
        files = {"default": folder / "chat_template.jinja"} | files
    found = {name: read_file(path).decode() for name, path in files.items()} or said.get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}
    if not all(isinstance(each, str) for each in (found.values() if isinstance(found, dict) else [found or ""])):
        raise BadModelFile(f"{folder}: chat_template in tokenizer_config.json is no text, nor a list of named ones")
    return found


def _token(said: object) -> AddedToken:
    """A token as these files write it: its text, which makes it a special one, or an object with its flags."""
    if isinstance(said, str):
        check_length(said)
        return AddedToken(said, special=True)
    if not isinstance(said, Mapping):
        raise TypeError(f"a token is a text or an object, not {said!r}")
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    check_length(said["content"])
    return AddedToken(**{key: said[key] for key in flags if key in said})
