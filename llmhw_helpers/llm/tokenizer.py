"""Text to tokens and back, by byte-level BPE from the model file's own tables, on the tokenizers library.

Byte-level BPE: GPT-2's report (2019), section 2.2. A text is cut into words, a word into its UTF-8 bytes, and pairs of
neighbours are merged in the order of the file's list until none is left to merge.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from .checkpoints import BadModelFile, Checkpoint, open_checkpoint

# How a text is cut into words before any merge, by GGUF's name for it (llama.cpp, llm_tokenizer_bpe). SmolLM2's own
# tokenizer.json says the same: Digits(individual_digits=True), then ByteLevel with GPT-2's expression.
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
WORDS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), GPT2],
    "gpt-2": [GPT2],
}
CONTROL, USER_DEFINED = 3, 4  # token types of a GGUF file that are never made by merging


class BadText(ValueError):
    """A text that has no tokens, or tokens that have no text: the message says which."""


class Tokenizer:
    """Text to tokens and back.

    Attributes:
        vocab_size: how many tokens there are.
        end: the token that ends a turn.
        library: the tokenizers library's own object.
    """

    def __init__(self, library: Library, end: int, template: str | None, bos: str = ""):
        self.library, self.end, self.vocab_size = library, end, 1 + max(library.get_vocab().values())
        self.ends = frozenset([end])
        self.holes = frozenset(range(self.vocab_size)) - frozenset(library.get_vocab().values())
        self._template, self._bos = template, bos

    def prompt(self, text: str) -> list[int]:
        """Tokens of a completion's prompt (stop-gap)."""
        return self.library.encode(text).ids

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of `text`. What looks like a special token, ``<|im_end|>``, is one only where `special` says so.

        A byte that the vocabulary has no token for is left out, as the model's own tokenizer leaves it out: SmolLM2's
        lacks some control characters, and the first bytes of U+40000 to U+BFFFF, where Unicode has assigned nothing.

        Raises:
            BadText: `text` holds half a character (a lone surrogate), as bytes that are no UTF-8 become.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = f"position {error.start}"
            raise BadText(f"the text is no valid UTF-8: {text[error.start]!r} at {where}; decode it anew") from None
        if special:
            return self.library.encode(text, add_special_tokens=False).ids
        pieces = self.library.pre_tokenizer.pre_tokenize_str(text)
        return [token.id for word, _ in pieces for token in self.library.model.tokenize(word)]

    def decode(self, tokens: Iterable[int], special: bool = True) -> str:
        """The text of `tokens`, special ones included; bytes that are no character become U+FFFD.

        Raises:
            BadText: a number that is no token.
        """
        tokens = list(tokens)
        for token in tokens:
            if not 0 <= token < self.vocab_size or token in self.holes:
                raise BadText(f"token {token} is none of this vocabulary's, which go from 0 to {self.vocab_size - 1}")
        return self.library.decode(tokens, skip_special_tokens=not special)

    def piece(self, token: int) -> str:
        r"""One token for people to read: its text, or its bytes (``\xf0\x9f``) where they are no whole characters."""
        text = self.decode([token])
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text
        raw = bytes(BYTE_OF[letter] for letter in self.library.id_to_token(token))
        return raw.decode(errors="backslashreplace")

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of `tokens` as they come, in whole characters: one cut in two waits for its other half."""
        characters = self.characters()
        for token in tokens:
            if text := characters.push(token):
                yield text
        if text := characters.close():
            yield text

    def characters(self, special: bool = True) -> "Characters":
        """The same for tokens that are pushed one by one."""
        return Characters(self, special)

    def chat(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> str:
        """The conversation as the model was trained to see it; with `answer`, up to where its answer begins.

        Raises:
            BadText: the file has no template, or the template refuses these messages.

        >>> load_tokenizer().chat([{"role": "user", "content": "Hi"}]).splitlines()[2:]
        ['<|im_start|>user', 'Hi<|im_end|>', '<|im_start|>assistant']
        """
        if self._template is None:
            raise BadText("this model's file has no chat template: it was not trained to chat")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it
        environment.globals["raise_exception"] = _refuse
        names = {"messages": list(messages), "add_generation_prompt": answer, "bos_token": self._bos}
        names["eos_token"] = self.library.id_to_token(self.end)
        try:
            return environment.from_string(self._template).render(**names)
        except (TemplateError, TypeError) as error:
            raise BadText(f"the chat template refuses these messages: {error}") from None

    def chat_tokens(self, messages: Sequence[Mapping[str, str]], answer: bool = True) -> list[int]:
        """The tokens of `chat`, with the special ones that the template writes."""
        return self.encode(self.chat(messages, answer), special=True)


class Characters:
    """Text from tokens as they come, in whole characters: see `Tokenizer.stream`."""

    def __init__(self, tokenizer: Tokenizer, special: bool = True):
        self._tokenizer, self._held, self._special = tokenizer, [], special

    def push(self, token: int) -> str:
        """What can be said after `token`; nothing, where it ends within a character."""
        self._held.append(token)
        text = self._tokenizer.decode(self._held, self._special)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(self._held) <= 4:  # no character has more bytes
            return ""
        self._held = []
        return text

    def close(self) -> str:
        """No token more: what was held, as it is."""
        text, self._held = self._tokenizer.decode(self._held, self._special), []
        return text


def load_tokenizer(path: Path | None = None) -> Tokenizer:
    """The tokenizer of the model at `path`, or of the one that `find_model` finds.

    Raises:
        ModelNotFound: there is no such file.
        BadModelFile: it holds no tokenizer that is known here, or one that does not fit its embedding.
    """
    checkpoint = open_checkpoint(path)
    tokenizer = _of_snapshot(checkpoint) if checkpoint.path.is_dir() else _of_gguf(checkpoint)
    rows = checkpoint.shapes.get("token_embd.weight", (0,))[0]
    if tokenizer.vocab_size > rows or (tokenizer.vocab_size < rows and not checkpoint.path.is_dir()):
        raise BadModelFile(f"{checkpoint.path}: {tokenizer.vocab_size} tokens, and an embedding for {rows}")
    return tokenizer


def _of_gguf(checkpoint: Checkpoint) -> Tokenizer:
    path, said = checkpoint.path, checkpoint.metadata
    kind, words = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or words not in WORDS:
        known = ", ".join(WORDS)
        raise BadModelFile(f"{path}: the tokenizer is {kind!r} with words as {words!r}; known is 'gpt2' with {known}")
    tokens, merges = said.get("tokenizer.ggml.tokens", []), said.get("tokenizer.ggml.merges", [])
    types, end = said.get("tokenizer.ggml.token_type"), said.get("tokenizer.ggml.eos_token_id", -1)
    if not tokens or not merges or types is None or len(types) != len(tokens):
        counts = f"{len(tokens)} tokens, {len(types or [])} types, {len(merges)} merges"
        raise BadModelFile(f"{path}: the tokenizer's tables do not fit together: {counts}")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or not 0 <= end < len(tokens):
        raise BadModelFile(f"{path}: the tokenizer lists a token twice, or ends with one ({end}) that it does not list")
    try:
        library = Library(models.BPE(vocabulary, [tuple(merge.split(" ", 1)) for merge in merges]))
    except Exception as error:  # the library raises plain ones
        raise BadModelFile(f"{path}: the tokenizer's merges do not fit its tokens ({error})") from None
    library.pre_tokenizer = pre_tokenizers.Sequence(WORDS[words])
    library.decoder = decoders.ByteLevel()
    special = [token for token, type_ in zip(tokens, types, strict=True) if type_ in (CONTROL, USER_DEFINED)]
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bos = said.get("tokenizer.ggml.bos_token_id")
    return Tokenizer(library, end, said.get("tokenizer.chat_template"), tokens[bos] if bos is not None else "")


def _of_snapshot(checkpoint: Checkpoint) -> Tokenizer:
    folder = checkpoint.path
    try:
        library = Library.from_file(str(folder / "tokenizer.json"))
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain ones
        raise BadModelFile(f"{folder}: no tokenizer.json with its tokenizer_config.json ({error})") from None
    bos, end = (_text(said.get(key)) for key in ("bos_token", "eos_token"))
    if library.token_to_id(end) is None:
        raise BadModelFile(f"{folder}: tokenizer_config.json ends with {end!r}, which tokenizer.json does not list")
    apart = folder / "chat_template.jinja"
    template = apart.read_text(encoding="utf-8") if apart.exists() else said.get("chat_template")
    return Tokenizer(library, library.token_to_id(end), template, bos)


def _text(token: str | Mapping | None) -> str:
    return token["content"] if isinstance(token, Mapping) else token or ""


def _refuse(why: str) -> None:
    raise TemplateError(why)


def _byte_of() -> dict[str, int]:
    """GPT-2 writes a byte as a letter: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_of()
