"""What a model file costs: bits per weight, the bytes of a whole file by llama.cpp's recipes, pages to read of it."""

from collections.abc import Iterator
from math import prod

from ..specs.architectures import Model
from ..specs.blocks import Block, block
from ..specs.figures import look_up
from .transformer import LOCAL, require

# llama.cpp, src/llama-quant.cpp, llama_tensor_get_type_impl, without an importance matrix: the type of all matrices,
# then of some. "more": in the layers of `gets_more_bits`; "first": in the first eighth (of attn_v the first 4);
# "shared": where at least 4 query heads share a head of values.
RECIPES: dict[str, dict[str, str]] = {
    **{name: {"all": name} for name in ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0")},
    "Q5_K_S": {"all": "Q5_K"},
    "Q5_K_M": {"all": "Q5_K", "attn_v more": "Q6_K", "ffn_down more": "Q6_K"},
    "Q4_K_M": {"all": "Q4_K", "attn_v more": "Q6_K", "ffn_down more": "Q6_K"},
    "Q4_K_S": {"all": "Q4_K", "attn_v first": "Q5_K", "ffn_down first": "Q5_K"},
    "Q3_K_S": {"all": "Q3_K"},
    "Q3_K_L": {"all": "Q3_K", "attn_v": "Q5_K", "ffn_down": "Q5_K", "attn_output": "Q5_K"},
    "Q2_K": {"all": "Q2_K", "attn_v": "Q3_K", "attn_v shared": "Q4_K", "ffn_down": "Q3_K", "attn_output": "Q3_K"},
}
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def tensors(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors in a Llama's GGUF file, ``(n_out, n_in)`` for a matrix.

    Raises:
        NoFormula: `model` is no plain Llama (experts, latent attention, biases, more norms).
    """
    require(model, "list of tensors", (LOCAL, f"the activation {model.activation}"))
    d = model.d_model
    yield "token_embd", (model.vocab_size, d)
    for i in range(model.n_layers):
        for name, shape in model.matrices().items():
            yield f"blk.{i}.{name}", shape
        yield f"blk.{i}.attn_norm", (d,)
        yield f"blk.{i}.ffn_norm", (d,)
    yield "output_norm", (d,)
    if not model.tied_embeddings:
        yield "output", (model.vocab_size, d)
    if model.rope_scaling and model.rope_scaling.kind == "llama3":
        yield "rope_freqs", (model.head_dim // 2,)  # no weights, but they lie in the file


def block_of(model: Model, name: str, shape: tuple[int, ...], recipe: str) -> Block:
    """The block layout that llama.cpp's `recipe` gives to the tensor `name`; source: its src/llama-quant.cpp.

    Vectors stay in F32. The head (or the table that serves as one) gets Q6_K in every quantised recipe but Q8_0. Of the
    ``M`` recipes, some layers' values and last MLP matrices get more bits: the first and last eighth, and every third
    between. A row that is no whole number of blocks falls back to a type with smaller blocks.

    Raises:
        UnknownName: a recipe that is not here.
    """
    types = look_up(recipe, RECIPES, "recipe")
    if len(shape) == 1:
        return block("F32")
    short = name.rpartition(".")[2]
    chosen = types.get(short, types["all"])
    if name == "output" or (name == "token_embd" and model.tied_embeddings):
        if block(chosen).n_weights > 1 and chosen != "Q8_0":
            chosen = "Q6_K" if shape[-1] % block(chosen).n_weights == 0 else "Q8_0"
    elif short in ("attn_v", "ffn_down"):
        i, n = int(name.split(".")[1]), model.n_layers
        if gets_more_bits(i, n):
            chosen = types.get(f"{short} more", chosen)
        if i < (4 if short == "attn_v" else n // 8):
            chosen = types.get(f"{short} first", chosen)
        if model.n_heads >= 4 * model.n_kv_heads:
            chosen = types.get(f"{short} shared", chosen)
        is_70b = n == 80 and model.n_heads != model.n_kv_heads  # as llama.cpp tells
        if short == "attn_v" and is_70b and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
    if shape[-1] % block(chosen).n_weights:
        chosen = FALLBACK.get(chosen, chosen)
    if shape[-1] % block(chosen).n_weights:
        chosen = "F16"
    return block(chosen)


def gets_more_bits(layer: int, n_layers: int) -> bool:
    """Whether an ``M`` recipe gives that layer's values and last MLP matrix more bits (llama.cpp, `use_more_bits`)."""
    return layer < n_layers // 8 or layer >= 7 * n_layers // 8 or (layer - n_layers // 8) % 3 == 2


def tensor_bytes(shape: tuple[int, ...], layout: Block) -> int:
    """``weights / weights a block * bytes a block``.

    Raises:
        ValueError: a row is no whole number of blocks.
    """
    if shape[-1] % layout.n_weights:
        raise ValueError(f"a row of {shape[-1]} weights is no whole number of {layout.name}'s {layout.n_weights}")
    return prod(shape) // layout.n_weights * layout.bytes


def model_bytes(model: Model, recipe: str) -> int:
    """Bytes of all tensors in a GGUF file; the vocabulary and the rest of the header, some MB, come on top.

    >>> from llmhw_helpers.specs.models import model
    >>> model_bytes(model("Llama-3.1-8B"), "Q4_K_M")
    4912898304
    """
    return sum(tensor_bytes(shape, block_of(model, name, shape, recipe)) for name, shape in tensors(model))


def bits_per_weight(model: Model, recipe: str) -> float:
    """Bits of all tensors, divided by the weights of the model."""
    return 8 * model_bytes(model, recipe) / model.n_params


def pages(offset: int, n_bytes: int, page_size: int) -> int:
    """Pages of a file that hold at least one of the `n_bytes` from `offset` on: what a memory map reads of it.

    >>> pages(4095, 2, 4096), pages(4096, 4096, 4096), pages(10, 0, 4096)
    (2, 1, 0)
    """
    return (offset + n_bytes - 1) // page_size - offset // page_size + 1 if n_bytes else 0
