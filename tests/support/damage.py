"""Damage to files, the same for one seed: bytes, lengths and values that no program wrote. For the tests beside it."""

import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

from tokenizers import pre_tokenizers

HANG = 20  # seconds of computing: none needs one, also on a busy machine
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TIMES = float(os.environ.get("LLMHW_FUZZ", "1"))  # so many times as many inputs, and others
SEED = 20 if TIMES == 1 else time.time_ns()
LONG = "x" * 600_000  # a text, and a name
NUMBERS = (0, 1, 2, 3, 7, 8, 31, 64, 255, 100_000, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
# JSON's kinds of values, and what Python's reader takes for them; "RAW" is put in as it stands.
VALUES = (
    *(None, True, False, "", "a", "\ud800", "\0", "../x", "a\nb", "1e5", "{{", [], {}, [[]], [None]),
    *(*NUMBERS, -1, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *([0, 1], ["a"], ["a", 10**9], [[0], 10**8], {"content": 3}, {"type": "x"}, [{"name": 1}], {"a": {}}, {"": 0}),
)
RAW = (
    "9" * 5000,
    "9" * 4300,
    "[[]" + ",[]" * 5000 + "]",
    "[" * 100_000,
    "[" * 500 + "]" * 500,
    '"\\ud800"',
    "1e999",
    "-",
    "NaN",
    "",
)


def inputs(name: str, n: int):
    """As many random generators as inputs, each of which can be made again from its number alone."""
    for number in range(round(n * TIMES)):
        yield number, random.Random(f"{SEED} {name} {number}")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changes: others, lying numbers, missing, twice."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            found[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            found[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
        elif kind == 2:
            found[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 3 and rng.random() < 0.3:
            del found[at:]
        elif kind == 4:
            del found[at : at + rng.choice((1, 2, 4, 8, 100))]
        elif kind == 5:
            found[at:at] = found[at : at + rng.choice((1, 8, 100))]
    return bytes(found)


def damaged_json(said: object, rng: random.Random) -> bytes:
    """JSON with a few values, names or letters that were others."""
    raw = rng.random() < 0.1
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        said = _changed(said, rng, "\0RAW" if raw else None)
    content = json.dumps(said)
    if raw:
        content = content.replace('"\\u0000RAW"', rng.choice(RAW))
    if rng.random() < 0.05 and (names := re.findall(r'"[^"\\\\]*": ', content)):
        at = rng.choice([found.end() for found in re.finditer("{", content)])
        content = content[:at] + rng.choice(names) + json.dumps(rng.choice(VALUES)) + ", " + content[at:]
    content = content.encode()
    return damaged(content, rng) if rng.random() < 0.1 else content


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The same for the JSON before the tensors, with a length that is right, so that it is read."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    (length,) = struct.unpack_from("<Q", content)
    said = json.loads(content[8 : 8 + length])
    header = json.dumps(_lying(said, rng)).encode() if rng.random() < 0.5 else damaged_json(said, rng)
    header += b" " * rng.choice((0, 0, 0, -len(header) % 8, 1))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _lying(said: dict, rng: random.Random) -> dict:
    """Entries of tensors that could be, and are not: places over each other, shapes of as many numbers, other types."""
    said = deepcopy(said)
    names = [name for name in said if name != "__metadata__"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry, other = said[rng.choice(names)], said[rng.choice(names)]
        begin, end = entry["data_offsets"]
        kind = rng.randrange(9)
        if kind == 0:
            entry["data_offsets"] = other["data_offsets"]
        elif kind == 1:
            entry["data_offsets"] = [end, begin]
        elif kind == 2:
            entry["data_offsets"] = [begin + rng.choice((-4, 4, 2**63)), end + rng.choice((-4, 4, 2**63))]
        elif kind == 3:
            entry["shape"] = [*entry["shape"][::-1], *rng.choice(((), (1,), (0,), (2**32, 2**32), (-1,)))]
        elif kind == 4:
            entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]
        elif kind == 5:  # no bytes: any number of rows
            entry |= {"shape": rng.choice(([0], [2**40, 0], [0, 2**63], [0] * 1000)), "data_offsets": [begin, begin]}
        elif kind == 6:
            entry["dtype"] = rng.choice(
                ("F64", "F16", "BF16", "I64", "I32", "U16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64")
            )
        elif kind == 7:
            layer = rng.choice(("99999", "2", "-1", "01", "9" * 5000))
            name = rng.choice(names)
            said[re.sub(r"layers\.\d+", f"layers.{layer}", name)] = dict(said[name])
        else:
            entry["shape"], other["shape"] = other["shape"], entry["shape"]
    return said


@dataclass
class Gguf:
    """A GGUF file in parts: pairs of a name and a value, with the number of its type; tensors by name.

    A value of type 9, an array, is the type of its items, and these.
    """

    pairs: list[tuple[str, int, object]]
    tensors: list[tuple[str, tuple[int, ...], int, int]]  # name, shape, type, offset
    n_bytes: int  # of all tensors

    def content(self, lie: Callable[[int], int] = lambda n: n) -> bytes:
        """The file; each count and length in it is as `lie` says."""
        text = lambda said: struct.pack("<Q", lie(len(said.encode()))) + said.encode()  # noqa: E731

        def packed(kind: int, value: object) -> bytes:
            if kind == 8:
                return text(value)
            if kind == 9:
                inner, items = value
                return struct.pack("<IQ", inner, lie(len(items))) + b"".join(packed(inner, each) for each in items)
            return struct.pack(GGUF_FORMS[kind], value)

        parts = [b"GGUF", struct.pack("<IQQ", 3, lie(len(self.tensors)), lie(len(self.pairs)))]
        for name, kind, value in self.pairs:
            parts += [text(name), struct.pack("<I", lie(kind) % 2**32), packed(kind, value)]
        for name, shape, kind, offset in self.tensors:
            parts += [text(name), struct.pack("<I", lie(len(shape)) % 2**32), struct.pack(f"<{len(shape)}Q", *shape)]
            parts += [struct.pack("<IQ", kind, offset)]
        before = b"".join(parts)
        return before + b"\0" * (-len(before) % 32) + struct.pack("<f", 1.0) * (self.n_bytes // 4)


GGUF_NAMES = (
    *("", "a", "general.alignment", "general.architecture", "general.name", "split.count", "split.no", "GGUF.version"),
    *(
        f"llama.{key}"
        for key in ("block_count", "vocab_size", "expert_count", "attention.key_length", "rope.freq_base")
    ),
    *(f"llama.{key}" for key in ("rope.scale_linear", "rope.scaling.attn_factor", "attention.value_length", "x", "")),
    *(f"tokenizer.ggml.{key}" for key in ("eot_token_id", "eom_token_id", "unknown_token_id", "add_bos_token", "x")),
    *(f"tokenizer.ggml.{key}" for key in ("add_eos_token", "scores", "token_type_count", "add_space_prefix", "")),
    *("tokenizer.chat_template.a", "tokenizer.chat_templates", "tokenizer.huggingface.json", "tokenizer."),
)
GGUF_FORMS = dict(
    zip(
        (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
        ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "<Q", "<q", "<d"),
        strict=True,
    )
)


def damaged_gguf(content: bytes, rng: random.Random) -> bytes:
    """Other values and types, names and tensors; counts and lengths that lie; sometimes bytes."""
    if rng.random() < 0.25:
        return damaged(content, rng)
    file = gguf_parts()
    pairs, tensors = list(file.pairs), list(file.tensors)
    lies = [rng.randrange(400)] if rng.random() < 0.3 else []

    def lie(n: int) -> int:
        lies[:] = [each - 1 for each in lies if each > 0] if lies and lies[0] else lies
        if lies and not lies[0]:
            lies.clear()
            return rng.choice((n + 1, max(0, n - 1), 0, *NUMBERS))
        return n

    for _ in range(rng.choice((0, 1, 1, 2, 4)) if lies else rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(8)
        at, where = rng.randrange(len(pairs)), rng.randrange(len(tensors))
        name, shape, type_, offset = tensors[where]
        if kind <= 2:
            pairs[at] = (pairs[at][0], *_gguf_value(rng))
        elif kind == 3:
            pairs[at] = (rng.choice(GGUF_NAMES), *rng.choice((pairs[at][1:], _gguf_value(rng))))
        elif kind == 4:
            pairs[at:at] = rng.choice(
                ([], [pairs[rng.randrange(len(pairs))]], [(rng.choice(GGUF_NAMES), *_gguf_value(rng))])
            )
            del pairs[rng.randrange(len(pairs)) if rng.random() < 0.5 else len(pairs) :][:1]
        elif kind == 5:
            shape = rng.choice(
                (
                    shape[::-1],
                    (*shape, 1),
                    (1, *shape),
                    shape[:1],
                    (),
                    (0,),
                    (2**40, 0),
                    (0, 2**40),
                    (2**63, 2),
                    (2**32, 2**32),
                )
            )
            tensors[where] = (name, shape, type_, offset)
        elif kind == 6:
            tensors[where] = (
                name,
                shape,
                rng.choice((0, 1, 2, 8, 12, 14, 24, 26, 28, 30, 39, 99, 2**32 - 1)),
                rng.choice((offset, 0, 4, 2**63, 2**64 - 32, 2**64 - 1)),
            )
        else:
            others = (
                tensors[rng.randrange(len(tensors))][0],
                "output.weight",
                "rope_freqs.weight",
                "blk.99999.attn_q.weight",
                "",
                "x" * 65,
            )
            tensors[where] = (rng.choice(others), shape, type_, offset)
    return Gguf(pairs, tensors, file.n_bytes).content(lie)


def _gguf_value(rng: random.Random) -> tuple[int, object]:
    """Of any type, with its number."""
    kind = rng.choice((*GGUF_FORMS, 8, 8, 9, 9))
    if kind == 8:
        return kind, rng.choice(
            ("", "a", "llama", "gpt2", "smollm", "none", "linear", "yarn", "a\nb", "\0", LONG[:5000], "{{", TEMPLATE)
        )
    if kind == 9:
        inner, value = _gguf_value(rng)
        n = rng.choice((0, 1, 2, 8, 260)) if inner != 9 else rng.choice((0, 1, 2))
        return kind, (inner, [value] * n)
    if kind in (6, 12):
        return kind, rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 0.5))
    if kind == 7:
        return kind, rng.random() < 0.5
    size = 8 * struct.calcsize(GGUF_FORMS[kind])
    value = rng.choice(NUMBERS) % 2**size
    return kind, value if GGUF_FORMS[kind][1].isupper() else value - 2 ** (
        size - 1
    ) if rng.random() < 0.5 else value % 2 ** (size - 1)


def _changed(said: object, rng: random.Random, value: object) -> object:
    """A copy in which one value somewhere is another, gone, or goes by another name."""
    inside = isinstance(said, dict | list) and len(said) > 0
    if not inside or rng.random() < 0.02:
        if value is not None:
            return value
        return LONG if rng.random() < 0.01 else rng.choice(VALUES)
    if isinstance(said, list):
        said = list(said)
        at = rng.randrange(len(said))
        said[at] = _changed(said[at], rng, value)
        if rng.random() < 0.05:
            said.append(said[at])
        return said
    said = dict(said)
    key = rng.choice(list(said))
    found = said[key]
    if rng.random() < 0.15:
        del said[key]
        if rng.random() < 0.5:
            said[rng.choice(("", "a\nb", "\ud800", "9", "-1", "rope_x", LONG[: rng.choice((5, 600_000))]))] = found
    else:
        said[key] = _changed(found, rng, value)
    return said


@cache
def gguf_parts() -> Gguf:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "<|im_start|>", "<|im_end|>"]
    sizes = {"block_count": 2, "embedding_length": 8, "feed_forward_length": 12, "context_length": 64}
    sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 4}
    pairs = [
        ("general.architecture", 8, "llama"),
        ("general.alignment", 4, 32),
        *((f"llama.{key}", 4, size) for key, size in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.rope.scaling.type", 8, "linear"),
        ("llama.rope.scaling.factor", 6, 2.0),
        ("tokenizer.ggml.model", 8, "gpt2"),
        ("tokenizer.ggml.pre", 8, "smollm"),
        ("tokenizer.ggml.tokens", 9, (8, tokens)),
        ("tokenizer.ggml.token_type", 9, (5, [1] * (len(tokens) - 2) + [3, 3])),
        ("tokenizer.ggml.merges", 9, (8, ["h e", "l l"])),
        ("tokenizer.ggml.eos_token_id", 4, len(tokens) - 1),
        ("tokenizer.ggml.bos_token_id", 4, len(tokens) - 2),
        ("tokenizer.chat_template", 8, TEMPLATE),
    ]
    shapes = {"token_embd": (8, len(tokens)), "output_norm": (8,)}  # in the file, the longest-stepping one is last
    for layer in ("blk.0", "blk.1"):
        shapes |= {f"{layer}.{part}": (8, 8) for part in ("attn_q", "attn_output")}
        shapes |= {f"{layer}.{part}": (8, 4) for part in ("attn_k", "attn_v")}
        shapes |= {f"{layer}.{part}": (8, 12) for part in ("ffn_gate", "ffn_up")}
        shapes |= {f"{layer}.ffn_down": (12, 8), f"{layer}.attn_norm": (8,), f"{layer}.ffn_norm": (8,)}
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append((f"{name}.weight", shape, 0, offset))
        offset += -(-4 * prod(shape) // 32) * 32
    return Gguf(pairs, tensors, offset)


@dataclass
class Reader:
    """Files, a reading of them, the errors that it documents, how many damaged ones it is tried on, and the damage."""

    make: Callable[[Path], None]
    read: Callable[[Path], None]
    errors: tuple[type[Exception], ...]
    files: tuple[str, ...]
    n: int
    spoil: Callable[[str, bytes, random.Random], bytes] | None = None  # of a file's name and content; `spoilt` without


def spoilt(name: str, content: bytes, rng: random.Random) -> bytes:
    """Other content of a file, as the end of its name says what it is."""
    if name.endswith(".safetensors"):
        return damaged_safetensors(content, rng)
    if name.endswith(".gguf"):
        return damaged_gguf(content, rng)
    return damaged_json(json.loads(content), rng) if name.endswith(".json") else damaged(content, rng)


def fault(read: Callable[[], None], errors: tuple[type[Exception], ...]) -> str | None:
    """What was wrong with an answer, other than what is documented: an error of these very kinds, in one short line."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read()
        said = [str(each.message) for each in told]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the tokenizers library's panics are no Exceptions
        if type(error) not in errors:
            return f"{type(error).__name__}: {error}"[:300]
        said = [str(error)]
    if wrong := [each for each in said if len(each) > 1000 or len(each.splitlines()) != 1]:
        return f"no short line: {wrong[0][:300]!r}"
    return "it hangs" if time.process_time() - begin > HANG else None


# What may lie where a file is wanted.
NO_FILES = {
    "a folder": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a name that is too long": lambda path: path.symlink_to("x" * 300),
    "a pipe": os.mkfifo,
}


# A program of its own: a library that waits in C may hold Python's lock, and no thread here could set it free.
SET_FREE = """
import os, select, stat, sys
while not select.select([0], [], [], 0.02)[0]:  # until its input ends
    try:
        found = os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
        if stat.S_ISFIFO(os.fstat(found).st_mode):  # and no file that was put in its place
            os.write(1, b"somebody waited")
        os.close(found)
    except OSError:  # there is no reader
        pass
"""


@contextmanager
def nobody_waits_for(pipe: Path):
    """For whoever opens it to read: there is no writer. One who does is set free, and reported."""
    command, both = [sys.executable, "-S", "-E", "-c", SET_FREE, pipe], subprocess.PIPE
    with subprocess.Popen(command, stdin=both, stdout=both) as watcher:
        try:
            yield
        finally:
            said, _ = watcher.communicate()
        assert said == b"", f"{pipe.name} is a pipe, and was waited for"


def try_what_is_no_file(reader: Reader, kind: str, folder: Path, errors: tuple[type[Exception], ...] = ()) -> None:
    """Put it in the place of each file of a reader, which has to read on, or to refuse it."""
    reader.make(folder)
    for file in reader.files:
        path = next(folder.rglob(file))
        content = path.read_bytes()
        path.unlink()
        NO_FILES[kind](path)
        with nobody_waits_for(path) if kind == "a pipe" else nullcontext():
            found = fault(lambda: reader.read(folder), (*reader.errors, *errors))
        assert found is None, f"{file}: {found}"
        if kind == "a folder" and path.exists():
            path.rmdir()
        else:  # whoever reads it may have deleted it
            path.unlink(missing_ok=True)
        path.write_bytes(content)


def try_damaged_files(name: str, reader: Reader, folder: Path) -> None:
    """So many damaged files as the reader says; each has to be read, or refused as documented."""
    reader.make(folder)
    paths = [next(folder.rglob(file)) for file in reader.files]
    whole = {path: path.read_bytes() for path in paths}
    assert fault(lambda: reader.read(folder), ()) is None
    for number, rng in inputs(name, reader.n):
        path = rng.choice(paths)
        content = (reader.spoil or spoilt)(path.name, whole[path], rng)
        path.write_bytes(content)
        found = fault(lambda: reader.read(folder), reader.errors)
        assert found is None, f"{path.name} of {SEED} {name} {number}: {found}: {content[:200]}"
        for each, before in whole.items():
            each.write_bytes(before)
        for aside in path.parent.glob("*.damaged-*"):
            aside.unlink()


def memory_of(read: Callable[[], object], errors: tuple[type[Exception], ...]) -> int:
    """The most bytes that Python holds for what `read` makes, which is made or refused with one of these errors."""
    tracemalloc.start()
    try:
        found = fault(read, errors)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is None, found
    return most
