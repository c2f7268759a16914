"""Text to tokens and back, from the model file's own tables, on the tokenizers library.

SmolLM2's way is byte-level BPE: GPT-2's report (2019), section 2.2. A text is cut into words, a word into its UTF-8
bytes, and pairs of neighbours are merged in the order of the file's list until none is left to merge. Llama 2's writes
spaces as letters and falls back to bytes where it knows no letter. The library does both, and others.
"""

import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Library

from .characters import BYTE, HALF, Characters, raw
from .checkpoints import BadModelFile, Checkpoint, open_checkpoint
from .templates import BadText, ChatTemplate
from .tokenizer_json import panicked
from .vocabularies import GPT2 as GPT2
from .vocabularies import of_gguf, of_snapshot

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: threads would only warn at each fork

# What reading meets where a file holds other things than it should
OTHER_FORM = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Tokenizer:
    """Text to tokens and back.

    Args:
        library: the tokenizers library's own object; whatever it cuts off or fills up with is switched off.
        end: the token that ends a turn.
        template: how a chat is written, or several ways by name, of which "default" is taken.
        bos: the text of the token that begins a text, for the template.
        ends: other tokens that end a turn as well.
        names: special tokens by the names that a template may call them by.

    Attributes:
        library, end: as above.
        ends: all tokens that end a turn.
        vocab_size: the highest token and one.
        holes: numbers below it that are no token.
        longest: characters of the longest token.
    """

    def __init__(
        self,
        library: Library,
        end: int,
        template: str | Mapping[str, str] | None,
        bos: str = "",
        *,
        ends: Collection[int] = (),
        names: Mapping[str, str] | None = None,
    ):
        library.no_truncation()
        library.no_padding()
        self.library, self.end, self.ends = library, end, frozenset({end, *ends})
        vocabulary = library.get_vocab(with_added_tokens=True)
        self.longest, tokens = max(map(len, vocabulary)), frozenset(vocabulary.values())
        self.vocab_size = max(tokens) + 1
        self.holes = frozenset(range(self.vocab_size)) - tokens
        if names is None:
            names = {"eos_token": library.id_to_token(end)} | ({"bos_token": bos} if bos else {})
        sources = {"default": template} if isinstance(template, str) else template or {}
        self._templates = {name: ChatTemplate(source, names) for name, source in sources.items()}
        added = library.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self._control = {i: token.content for i, token in added.items() if token.special or i in self.ends}
        # A name for each control token that nobody can guess, and so no message can hold; one for all threads.
        self._hidden_names = {token: f"<{secrets.token_hex(16)}>" for token in self._control}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of `text`. What looks like a special token, ``<|im_end|>``, is one only where `special` says so.

        A byte that the vocabulary has no token for is left out, as the model's own tokenizer leaves it out: SmolLM2's
        lacks some control characters, and the first bytes of U+40000 to U+BFFFF, where Unicode has assigned nothing.

        Raises:
            BadText: `text` holds half a character (a lone surrogate), as bytes that are no UTF-8 become; or the file's
                tokenizer fails on it, as one without the token that it names for unknown words.
        """
        tokens = _tokens(self.library, text)
        if special or self._control.keys().isdisjoint(tokens):
            return tokens
        return _tokens(self._plain, text)

    def prompt(self, text: str) -> list[int]:
        """Tokens of a text to be gone on with: what the model's files put before and after it, and special ones read.

        Raises:
            BadText: as `encode`.
        """
        return _tokens(self.library, text, add_special_tokens=True)

    def decode(self, tokens: Iterable[int], special: bool = True) -> str:
        """The text of `tokens`, special ones included or left out; bytes that are no character become U+FFFD.

        Raises:
            BadText: a number that is no token.
        """
        tokens = list(tokens)
        for token in tokens:
            self._check(token)
        # Left out here, as the library itself keeps those that a normalizer writes otherwise: Prepend, "\u2581</s>".
        shown = tokens if special else [token for token in tokens if token not in self._special]
        return self.library.decode(shown, skip_special_tokens=False)

    def piece(self, token: int) -> str:
        r"""One token for people to read: its text, or its bytes (``\xf0\x9f``) where they are no whole characters."""
        text = self.decode([token])
        if HALF not in text:
            return self.decode([token, token])[len(text) :]  # not the first, which may lose a space
        written = self.library.id_to_token(token)
        byte = BYTE.fullmatch(written)
        return (bytes.fromhex(byte[1]) if byte else raw(written)).decode(errors="backslashreplace")

    def stream(self, tokens: Iterable[int], special: bool = True) -> Iterator[str]:
        """The text of `tokens` as they come, in whole characters: one cut in two waits for its other half."""
        characters = self.characters(special)
        for token in tokens:
            if text := characters.push(token):
                yield text
        if text := characters.close():
            yield text

    def characters(self, special: bool = True) -> Characters:
        """The same for tokens that are pushed one by one."""
        return Characters(self.library, self._check, frozenset() if special else self._special)

    def chat(self, messages: Sequence[Mapping[str, object]], answer: bool = True, template: str = "default") -> str:
        """The conversation as the model was trained to see it; with `answer`, up to where its answer begins.

        Raises:
            BadText: the file has no template, or none of this name, or the template refuses these messages.

        >>> load_tokenizer().chat([{"role": "user", "content": "Hi"}]).splitlines()[2:]
        ['<|im_start|>user', 'Hi<|im_end|>', '<|im_start|>assistant']
        """
        return self._template(template).render(messages, answer)

    def chat_tokens(
        self, messages: Sequence[Mapping[str, object]], answer: bool = True, template: str = "default"
    ) -> list[int]:
        """The tokens of `chat`, with the special ones that the template writes.

        What looks like one in a message is text, and ends no turn.

        Raises:
            BadText: as `chat` and `encode`.
        """
        pieces = self._template(template).pieces(messages, answer, self._control.values())
        tokens = _tokens(self.library, "".join(pieces))
        own = self.control
        if [token for token in tokens if token in self._control] == [own[word] for word in pieces[1::2]]:
            return tokens
        pieces[1::2] = [self._hidden_names[own[word]] for word in pieces[1::2]]
        return _tokens(self._plain, "".join(pieces))

    def _template(self, name: str) -> ChatTemplate:
        if not self._templates:
            raise BadText("this model's file has no chat template: it was not trained to chat")
        if name not in self._templates:
            raise BadText(f"no chat template is called {name!r}; there are: {', '.join(sorted(self._templates))}")
        return self._templates[name]

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size or token in self.holes:
            holes = f" but for {len(self.holes)} of them" if self.holes else ""
            known = f"which go from 0 to {self.vocab_size - 1}{holes}"
            raise BadText(f"token {token} is none of this vocabulary's, {known}")

    @cached_property
    def control(self) -> dict[str, int]:
        """The tokens that no user's text makes, by their text: special ones, and those that end a turn."""
        return {text: token for token, text in self._control.items()}

    @cached_property
    def _plain(self) -> Library:
        """The library with its control tokens under their hidden names: what they were called before is plain text."""
        said = json.loads(self.library.to_str())
        hidden = {self._control[token]: name for token, name in self._hidden_names.items()}
        for token in said["added_tokens"]:
            if token["content"] in hidden:
                token |= {"content": hidden[token["content"]], "normalized": False}
        model = said["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {hidden.get(text, text): token for text, token in model["vocab"].items()}
        else:  # Unigram's pairs
            model["vocab"] = [[hidden.get(text, text), score] for text, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & hidden.keys()]
        if "unk_token" in model:
            model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
        with _documented("has no words without its control tokens"):
            return Library.from_str(json.dumps(said | {"post_processor": None}))


def load_tokenizer(path: Path | None = None) -> Tokenizer:
    """The tokenizer of the model at `path`, or of the one that `find_model` finds.

    Raises:
        ModelNotFound: there is no such file.
        BadModelFile: it holds no tokenizer that is known here, or one that does not fit its embedding.
    """
    checkpoint = open_checkpoint(path)
    try:
        found = of_snapshot(checkpoint) if checkpoint.path.is_dir() else of_gguf(checkpoint)
        _check_fits(checkpoint, found.library)
        return Tokenizer(found.library, found.end, found.template, ends=found.ends, names=found.names)
    except BadModelFile:
        raise
    except OSError as error:
        raise BadModelFile(f"{checkpoint.path} cannot be read: {error.strerror or error}") from None
    except BaseException as error:  # a list where a text should be, and the like
        if not isinstance(error, OTHER_FORM) and not panicked(error):
            raise
        raise BadModelFile(
            f"{checkpoint.path}: the tokenizer's description is not of the known form ({error})"
        ) from None


def _check_fits(checkpoint: Checkpoint, library: Library) -> None:
    """Before anything is made for each token: a file may call one 4,000,000,000."""
    rows = checkpoint.shapes.get("token_embd.weight", (0,))[0]
    numbers = library.get_vocab(with_added_tokens=True).values()
    if len(set(numbers)) < len(numbers):  # which of two is meant differs from one program to the next
        raise BadModelFile(f"{checkpoint.path}: two tokens of its tokenizer have the same number")
    n_tokens = max(numbers, default=-1) + 1
    if not 0 < n_tokens <= rows:
        raise BadModelFile(f"{checkpoint.path}: {n_tokens} tokens, and an embedding for {rows}")


def _tokens(library: Library, text: str, add_special_tokens: bool = False) -> list[int]:
    """In a call that lets other threads run meanwhile, as `Library.encode` does not."""
    text = _whole(text)
    with _documented("has no tokens for the text"):
        return library.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids


@contextmanager
def _documented(what: str) -> Iterator[None]:
    """The library raises plain exceptions, where a file names a token that it does not list, and panics."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and not panicked(error):
            raise
        raise BadText(f"the tokenizer of this model's file {what}: {error}") from None


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"position {error.start}"
        raise BadText(f"the text is no valid UTF-8: {text[error.start]!r} at {where}; decode it anew") from None
    return text
