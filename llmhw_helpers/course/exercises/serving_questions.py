"""Questions of the final examination, on one GPU that computes and serves; made like those in `questions`."""

from ...costs.attention import scores_bytes
from ...costs.flops import product
from ...costs.inference import decode_work, kv_bytes
from ...costs.paging import blocks_for
from ...costs.roofline import Roof
from ...costs.weights import matrices, weight_bytes, weights_read
from ...specs.accelerators import accelerator
from ...specs.flavours import flavour
from ...specs.models import model
from .questions import CARDS, LARGE, SMALL, Draw, Question

BLOCK, UTILISATION = 16, 0.9


def products(draw: Draw) -> Question:
    """The floor of a matrix product, by arithmetic or by memory."""
    card, rows, width = accelerator(draw(*CARDS)), draw(8, 32, 512, 4096), draw(4096, 5120, 8192)
    work, roof = product(rows, width, width, "fp16"), Roof.of(card)
    floor = roof.floor(work, "fp16")
    return Question(
        "a product's floor",
        "00 and 12",
        f"On {card.name}, X [rows, width] is multiplied by W [width, width] in fp16, 2 bytes a number. X and W are "
        "read once, and the result is written once. How long does it take at least?",
        {"rows": rows, "width": width, "flops_per_s": roof.peak("fp16"), "bytes_per_s": roof.bytes_per_s},
        "s",
        floor.seconds,
        [
            (
                floor.compute_seconds + floor.memory_seconds,
                "You added arithmetic and traffic: they go on at the same time, so take the larger of the two.",
            ),
            (
                min(floor.compute_seconds, floor.memory_seconds),
                "You gave the faster of arithmetic and traffic: the slower one decides.",
            ),
            (
                floor.compute_seconds / 2,
                "You counted one operation for each pair of numbers: a multiply and an add are two.",
            ),
            (floor.memory_seconds / 2, "You counted one byte a number: it has 2."),
        ],
    )


def decoding(draw: Draw) -> Question:
    """Tokens a second of decoding, by the bytes of a step."""
    m, card = model(draw("Llama-3.2-3B", "Mistral-7B-v0.3", "Llama-3.1-8B")), accelerator(draw(*CARDS))
    batch, context = draw(1, 8, 32), draw(1024, 4096, 8192)
    rate, work = card.bytes_per_s.known(), decode_work(m, batch, context)
    read, per_token = weights_read(m, flavour("bf16")), kv_bytes(m)
    return Question(
        "speed of decoding",
        "07",
        f"{m.name} writes for batch_size texts at the same time on {card.name}, each with `context` tokens in its "
        "cache. A step reads the weights once, and every text's cache. The memory's rate is the limit. How many "
        "tokens are written each second, all texts together, at most?",
        {
            "batch_size": batch,
            "context": context,
            "weight_bytes": read,
            "cache_bytes_per_token": per_token,
            "bytes_per_s": rate,
        },
        "tokens/s",
        batch * rate / work.bytes,
        [
            (rate / (read + batch * context * per_token), "You gave the rate of each text: times batch_size."),
            (batch * rate / read, "You left out the caches: a step reads them as well."),
            (
                batch * rate / (read + context * per_token),
                "You counted the cache of one text: each has its own, and all are read.",
            ),
            (
                rate / (read + context * per_token),
                "You gave the rate of a single text: a step reads the weights once, for all texts.",
            ),
        ],
    )


def texts(draw: Draw) -> Question:
    """Texts that have room beside the weights, in whole blocks."""
    m, card = model(draw("Llama-3.2-3B", "Mistral-7B-v0.3", "Llama-3.1-8B")), accelerator(draw(*CARDS))
    context, reserve, memory = draw(1000, 2041, 4090), draw(2e9, 3e9), card.memory_bytes.known()
    per_token, held = kv_bytes(m), 2 * m.n_params

    def room(weights: float = held, kept: float = reserve, share: float = UTILISATION, token: float = per_token):
        return int((share * memory - weights - kept) // (BLOCK * token)) // blocks_for(context, BLOCK)

    sizes = {size: getattr(m, size) for size in ("n_params", "n_layers", "n_heads", "n_kv_heads", "head_dim")}
    return Question(
        "texts at once",
        "08 and 13",
        f"A server may use {UTILISATION:.0%} of the memory of {card.name} for {m.name} in bf16. It keeps `reserve` "
        f"bytes for itself, and gives the rest to a cache in bf16, in blocks of {BLOCK} tokens. How many texts of "
        "`context` tokens have room at the same time?",
        sizes | {"context": context, "memory_bytes": memory, "reserve": reserve},
        "texts",
        room(),
        [
            (room(weights=0), "You left out the weights: they lie in the same memory."),
            (room(kept=0), "You left out the reserve: the server keeps it."),
            (room(share=1), f"You used all of the memory: the server may use {UTILISATION:.0%} of it."),
            (
                room(token=per_token * m.n_heads / m.n_kv_heads),
                "You counted n_heads: query heads share keys and values, so count n_kv_heads.",
            ),
            (
                room(token=per_token / 2),
                "You left out a factor of 2: a token has a key and a value, and each of their numbers 2 bytes.",
            ),
            (
                room(token=per_token / 4),
                "You left out two factors of 2: a token has a key and a value, and each of their numbers 2 bytes.",
            ),
            (
                (UTILISATION * memory - held - reserve) / (context * per_token),
                "You did not round: a text holds whole blocks (up), and part of a text is no text (down).",
            ),
            (
                int((UTILISATION * memory - held - reserve) // (context * per_token)),
                "You rounded the texts alone: a text also holds whole blocks, so round its blocks up.",
            ),
        ],
        rtol=1e-9,
    )


def scores(draw: Draw) -> Question:
    """The table that fused attention never writes."""
    m, seq_len, batch = model(draw(*SMALL[1:], *LARGE)), draw(2048, 8192, 32768), draw(1, 4)
    table = batch * scores_bytes(m, seq_len, seq_len)
    return Question(
        "attention's table",
        "03 and 09",
        f"Plain attention writes a table of scores in bf16, and fused attention does not. How many bytes is that table "
        f"in one layer of {m.name}, all heads and texts together? (Count all pairs of tokens, masked ones too.)",
        {"batch_size": batch, "seq_len": seq_len}
        | {size: getattr(m, size) for size in ("n_layers", "n_heads", "n_kv_heads", "head_dim")},
        "B",
        table,
        [
            (
                table * m.n_kv_heads / m.n_heads,
                "You counted n_kv_heads: every query head has scores of its own, also where heads share keys.",
            ),
            (table / m.n_heads, "You counted one head: there is a table for each."),
            (table / 2, "You counted one byte a score: in bf16 it has 2."),
            (table / batch, "You counted one text: each of the batch has its table."),
            (table * m.n_layers, "You counted all layers: one is asked for."),
            (table * m.head_dim, "You multiplied by head_dim: a score is one number for a pair of tokens."),
        ],
    )


def quantised(draw: Draw) -> Question:
    """Bytes of weights in groups of four-bit numbers, with what their scales take."""
    m, of = model(draw(*SMALL[1:], *LARGE)), flavour("AWQ int4")
    inside = sum(matrices(m, of).values())
    other = m.n_params - inside
    return Question(
        "bytes of a flavour",
        "10 and 11",
        f"The matrices of {m.name} are quantised to 4 bits in groups of 128 weights; each group has a scale of 16 bits "
        "and a zero point of 4. All other weights stay in bf16. How many bytes are the weights?",
        {"n_quantised": inside, "n_other": other, "bits": 4, "group_size": 128, "scale_bits": 16, "zero_bits": 4},
        "B",
        weight_bytes(m, of),
        [
            (inside / 2 + 2 * other, "You left out scale and zero point: a group has both beside its weights."),
            ((4 + 20 / 128) / 8 * m.n_params, "You quantised all weights: those outside the matrices have 2 bytes."),
            ((4 + 20 / 128) / 8 * inside, "You left out the other weights: they count as well."),
            ((4 + 20 / 128) * inside + 16 * other, "You gave bits: 8 make a byte."),
            (24 / 8 * inside + 2 * other, "You counted a scale for each weight: it is for a group."),
        ],
    )
