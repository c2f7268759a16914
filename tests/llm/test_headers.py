"""The hand-written readers equal the libraries on sound files; on lies and damage they say one line, at no cost."""

import json
import random
import struct
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llmhw_helpers.llm.checkpoints import find_model
from llmhw_helpers.llm.gguf_file import BadModelFile
from llmhw_helpers.llm.headers import SAFETENSORS_BITS, read_gguf_header, read_safetensors_header

FLIPS, WATCHED = 2000, 200  # damaged files for each reader; of them with their memory traced, which is slow
MOST_MEMORY = 3e6  # bytes that reading a damaged file of 10 kB may take


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("headers") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a snowman \N{SNOWMAN}")
    writer.add_block_count(3)
    writer.add_float32("a.float", 1.5)
    writer.add_bool("a.truth", True)
    writer.add_token_list([b"ab", b"c" * 30, "\N{SNOWMAN}".encode()])
    writer.add_token_types([1, 2, 3])
    numbers = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    for kind in ("Q4_1", "Q8_0", "Q4_0"):
        packed = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"blk.0.{kind}.weight", packed, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.add_tensor("a.norm", numbers[0, :5])
    writer.add_tensor("b.norm", numbers.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small_safetensors(tmp_path_factory):
    path = tmp_path_factory.mktemp("headers") / "small.safetensors"
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.arange(7, dtype=torch.uint8),
        "d": torch.randn(2, 2).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(3, dtype=torch.int64),
    }
    save_file(tensors, path, metadata={"format": "pt", "made by": "\N{SNOWMAN}"})
    return path


@pytest.mark.parametrize("real", [True, False], ids=["SmolLM2", "small"])
def test_gguf_equals_the_library(real, small_gguf):
    path = find_model() if real else small_gguf
    ours, theirs = read_gguf_header(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        entry = ours.tensors[tensor.name]
        assert entry.type == tensor.tensor_type.name
        assert entry.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (entry.offset, entry.n_bytes) == (tensor.data_offset, tensor.n_bytes)
    assert (ours.data_start, ours.file_bytes) == (theirs.data_offset, path.stat().st_size)
    keys = {key for key in theirs.fields if not key.startswith("GGUF.")}
    assert set(ours.metadata) == keys
    for key in keys:
        found = ours.metadata[key]
        found = found.tolist() if isinstance(found, np.ndarray) else found
        assert found == theirs.fields[key].contents(), key


def gguf_file(path, *tensors, says=lambda writer: None):
    writer = gguf.GGUFWriter(path, "llama")
    says(writer)
    for name, values, kind in tensors:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


THREE, FIVE = ("x", np.ones(3, np.float32), None), ("y", np.ones(5, np.float32), None)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([("none", np.zeros((4, 0), np.float32), None), THREE], lambda writer: None),
        ([("one", np.float32(3).reshape(()), None), FIVE], lambda writer: None),
        ([THREE, FIVE], lambda writer: writer.add_custom_alignment(64)),
        ([THREE, FIVE], lambda writer: writer.add_array("a", [[1, 2], [3]])),
        ([THREE], lambda writer: writer.add_array("a", [True, False])),
    ],
    ids=["no rows", "no dimensions", "alignment", "arrays in an array", "truths"],
)
def test_rare_gguf_files_are_read_as_by_the_library(tmp_path, tensors, says):
    path = gguf_file(tmp_path / "rare.gguf", *tensors, says=says)
    found = {name: (entry.shape, entry.offset) for name, entry in read_gguf_header(path).tensors.items()}
    tensors = gguf.GGUFReader(path).tensors
    assert found == {t.name: (tuple(int(n) for n in t.shape[::-1]), t.data_offset) for t in tensors}


def test_arrays_in_arrays_are_lists_in_lists_and_not_without_end(tmp_path):
    says = lambda writer: writer.add_array("a", [[1, 2], [3]])  # noqa: E731
    path = gguf_file(tmp_path / "nested.gguf", THREE, says=says)
    assert [part.tolist() for part in read_gguf_header(path).metadata["a"]] == [[1, 2], [3]]
    array = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000 + struct.pack("<IQ", 0, 0)
    content = b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"a" + array
    assert "unknown type of metadata 9" in outcome(read_gguf_header, path, content)


@pytest.mark.parametrize("kind", gguf.GGMLQuantizationType, ids=lambda kind: kind.name)
def test_every_type_of_the_gguf_library_is_read_or_named(tmp_path, kind):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    path = gguf_file(tmp_path / "kind.gguf", ("x", np.zeros((2, size), np.uint8), kind))
    try:
        assert read_gguf_header(path).tensors["x"].n_bytes == 2 * size
    except BadModelFile as error:
        assert f"of type {kind.value}, which this reader does not know" in str(error)  # noqa: PT017


ENTRY = '{"dtype":"F32","shape":[4],"data_offsets":[0,16]'
ODD = {
    "no metadata": '{"__metadata__":null,"a":ENTRY}}',
    "metadata that is no table": '{"__metadata__":false,"a":ENTRY}}',
    "a byte order mark": '\ufeff{"a":ENTRY}}',
    "words for numbers": '{"a":ENTRY,"more":NaN}}',
    "minus nothing": '{"a":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}',
    "half of a letter": '{"\\ud800":ENTRY}}',
    "an escaped letter": '{"\\ud83d\\ude00":ENTRY}}',
    "more than 64 bits": '{"a":ENTRY},"b":{"dtype":"F32","shape":[0,1180591620717411303424],"data_offsets":[16,16]}}',
    "a product of more": '{"a":ENTRY},"b":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[16,16]}}',
    "a large product of nothing": '{"a":ENTRY},"b":{"dtype":"U8","shape":[0,4294967296,9],"data_offsets":[16,16]}}',
    "eight bits of another kind": '{"a":{"dtype":"F8_E4M3FNUZ","shape":[16],"data_offsets":[0,16]}}',
    "a type of tomorrow": '{"a":{"dtype":"F7","shape":[16],"data_offsets":[0,16]}}',
    "no numbers": '{"a":ENTRY},"b":{"dtype":"F32","shape":[3,0],"data_offsets":[16,16]}}',
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_safetensors_headers_are_read_or_refused_as_by_the_library(tmp_path, odd):
    path = tmp_path / "odd.safetensors"
    ours = written(path, None, raw=ODD[odd].replace("ENTRY", ENTRY).encode())
    try:
        with safe_open(path, "np") as file:
            theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        assert isinstance(ours, str)
    else:
        assert {name: entry.shape for name, entry in ours.tensors.items()} == theirs


def test_safetensors_equals_the_library(small_safetensors):
    ours = read_safetensors_header(small_safetensors)
    with safe_open(small_safetensors, "pt") as theirs:
        assert ours.metadata == theirs.metadata()
        assert set(ours.tensors) == set(theirs.keys())
        content = small_safetensors.read_bytes()
        for name, entry in ours.tensors.items():
            tensor = theirs.get_tensor(name)
            assert entry.shape == tuple(tensor.shape)
            raw = content[entry.offset : entry.offset + entry.n_bytes]
            assert raw == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert ours.data_start == 8 + struct.unpack_from("<Q", content)[0]


def test_every_type_that_safetensors_writes_is_known(tmp_path):
    names = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
    ]
    names += ["uint64", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "complex64"]
    names += ["float8_e4m3fnuz", "float8_e5m2fnuz"]
    save_file({name: torch.zeros(3).to(getattr(torch, name)) for name in names}, tmp_path / "all.safetensors")
    tensors = read_safetensors_header(tmp_path / "all.safetensors").tensors
    assert {name: SAFETENSORS_BITS[entry.type] // 8 * 3 for name, entry in tensors.items()} == {
        name: getattr(torch, name).itemsize * 3 for name in names
    }


def outcome(read, path, content):
    """A header, or the error's line."""
    path.write_bytes(content)
    try:
        return read(path)
    except BadModelFile as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 700
    return line


READERS = {"gguf": read_gguf_header, "safetensors": read_safetensors_header}


@pytest.fixture(params=READERS)
def reader(request, small_gguf, small_safetensors):
    return READERS[request.param], {"gguf": small_gguf, "safetensors": small_safetensors}[request.param].read_bytes()


def test_every_truncation_is_named(reader, tmp_path):
    read, content = reader
    for length in range(len(content)):
        said = outcome(read, tmp_path / "short", content[:length])
        assert isinstance(said, str), length
        assert "damaged or no model file" in said or "too short" in said


def test_flipped_bytes_neither_crash_nor_take_memory(reader, tmp_path):
    read, content = reader
    draw, refused = random.Random(0), 0
    tracemalloc.start()
    for i in range(FLIPS):
        if i == WATCHED:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 8))):
            damaged[draw.randrange(min(len(damaged), 900))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        refused += isinstance(outcome(read, tmp_path / "flipped", bytes(damaged)), str)
    assert peak < MOST_MEMORY
    assert refused > FLIPS / 4


@pytest.mark.parametrize("read", READERS.values(), ids=list(READERS))
@settings(max_examples=300)
@given(rest=st.binary(max_size=200))
def test_any_bytes_behind_a_true_beginning(read, rest, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "file"
    start = b"GGUF\x03\0\0\0" if read is read_gguf_header else struct.pack("<Q", max(len(rest) - 3, 0))
    outcome(read, path, start + rest)


def patch(content, old, new):
    assert content.count(old) == 1, content.count(old)
    return content.replace(old, new)


def test_a_gguf_header_that_lies(small_gguf, tmp_path):
    content, path = small_gguf.read_bytes(), tmp_path / "lies.gguf"
    huge = struct.pack("<Q", 2**62)
    tokens = b"tokenizer.ggml.tokens" + struct.pack("<IIQ", 9, 8, 3)
    entry = b"blk.0.Q4_1.weight" + struct.pack("<IQQIQ", 2, 64, 4, 3, 0)
    last = b"b.norm" + struct.pack("<IQQIQ", 2, 64, 4, 1, 640)

    def lie(old, new):
        return outcome(read_gguf_header, path, patch(content, old, new))

    assert "says 4611686018427387904 tensors" in lie(content[:16], content[:8] + huge)
    assert "pairs of metadata" in lie(content[:24], content[:16] + huge)
    assert "it is big-endian, and little-endian files are read" in lie(content[:8], b"GGUF\0\0\0\x03")
    assert "begins with b'GGML'" in lie(content[:8], b"GGML\x03\0\0\0")
    assert "says 4611686018427387904 texts" in lie(tokens, tokens[:-8] + huge)
    assert "unknown type of metadata 77" in lie(tokens, tokens[:-16] + struct.pack("<IIQ", 9, 77, 3))
    assert "says 4611686018427387904 arrays" in lie(tokens, tokens[:-16] + struct.pack("<II", 9, 9) + huge)
    assert "letters" in lie(struct.pack("<Q", 7) + b"a.float", huge + b"a.float")
    assert "no valid UTF-8" in lie(b"a.float", b"\xff.float")
    assert "'a.float' twice" in lie(b"a.truth", b"a.float")
    assert "a row of 33 weights is no whole number of Q4_1's 32" in lie(
        entry, entry[:21] + struct.pack("<QQIQ", 33, 4, 3, 0)
    )
    assert "of type 99" in lie(entry, entry[:-12] + struct.pack("<IQ", 99, 0))
    assert "with 9 dimensions" in lie(entry, entry[:17] + struct.pack("<I", 9) + entry[21:])
    assert "no multiple of 32" in lie(entry, entry[:-8] + struct.pack("<Q", 8))
    assert "lies over another" in lie(last, last[:-8] + struct.pack("<Q", 0))
    assert f"the file at {len(content)}" in lie(last, last[:-8] + struct.pack("<Q", 2**40))
    assert "tensor 'a.norm' twice" in lie(b"b.norm", b"a.norm")


def written(path, header, n_bytes=16, raw=None):
    text = json.dumps(header).encode() if raw is None else raw
    return outcome(read_safetensors_header, path, struct.pack("<Q", len(text)) + text + bytes(n_bytes))


def test_a_safetensors_header_that_lies(tmp_path):
    path = tmp_path / "lies.safetensors"

    def entry(dtype="F32", shape=(4,), begin=0, end=16):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    assert written(path, {"a": entry()}).tensors["a"].n_bytes == 16
    assert "has 160 bits, its offsets 16 bytes" in written(path, {"a": entry(shape=(5,))})
    assert "ends at byte" in written(path, {"a": entry(end=2**40, shape=(2**38,))})
    assert "lies over another one" in written(path, {"a": entry(), "b": entry(begin=8, end=16, shape=(2,))})
    assert "a hole of 8 bytes" in written(path, {"a": entry(begin=8, end=16, shape=(2,))})
    assert "its tensors end at byte" in written(path, {"a": entry(end=8, shape=(2,))})
    for bad in (
        {"dtype": "F32"},
        entry(dtype="F31"),
        entry(dtype=["F32"]),
        entry(shape=(-4,)),
        entry(shape=(4.0,)),
        entry(shape=(True, 4)),
        entry(shape="4"),
        entry(begin=0.0),
        [],
        None,
        "F32",
    ):
        assert "no dtype, shape and data_offsets" in written(path, {"a": bad}), bad
    assert "no table of texts" in written(path, {"__metadata__": {"a": 1}})
    assert "no JSON object" in written(path, [1])
    assert "no JSON (" in written(path, None, raw=b"{")
    assert "no JSON (" in written(path, None, raw=b'{"\xff": 1}')
    assert "no JSON (" in written(path, None, raw=b"[" * 100_000)
    assert "no JSON (" in written(path, None, raw=b'{"a": ' + b"9" * 5000 + b"}")
    assert "twice" in written(path, None, raw=b'{"a": 1, "a": 2}')
    long = struct.pack("<Q", 2**63) + b"{}"
    assert "says 9223372036854775808 bytes of header" in outcome(read_safetensors_header, path, long)


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_gguf_header(tmp_path / "none")
    assert "too short for a model file" in outcome(read_gguf_header, tmp_path / "empty", b"")
