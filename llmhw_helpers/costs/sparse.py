"""The two parts of a block that are not a Llama's: latent attention, and a mixture of experts."""

from dataclasses import replace

from ..specs.architectures import Model
from .operations import FP32_BYTES, Operation, Pass, attention, meet, mlp, norm

INDEX_BYTES = 8  # int64


def latent_attention(model: Model, run: Pass) -> list[Operation]:
    """Between a block's first norm and its residual, every head with a key and a value of its own.

    As transformers computes DeepSeek-V3: the part of a head's key without rotation and its value are one product, of
    which the values stay a part; queries and keys are put together anew, a rotated part to each.
    """
    latent, c = model.latent, run.number_bytes * run.n_tokens
    rank, nope, rope = latent.kv_lora_rank, latent.qk_nope_head_dim, latent.qk_rope_head_dim
    h, q, out = (c * n for n in (model.d_model, model.n_heads * (nope + rope), model.n_heads * latent.v_head_dim))
    made, both = c * (rank + rope), c * model.n_heads * (nope + latent.v_head_dim)
    q_rank, n_q = latent.q_lora_rank, model.n_heads * (nope + rope)
    queries = [Operation("qkv", kept=h, makes=h, drops=q, n_weights=model.d_model * n_q)]
    if q_rank is not None:
        queries = [
            Operation("qkv", kept=h, makes=h, drops=c * q_rank, n_weights=model.d_model * q_rank),
            *norm("latent_norm", run, q_rank),
            Operation("qkv", kept=c * q_rank, makes=c * q_rank, drops=q, n_weights=q_rank * n_q),
        ]
    copied = run.attention == "naive" and run.batch_size > 1 and run.recompute != "selective"  # to multiply in a batch
    n_up = rank * model.n_heads * (nope + latent.v_head_dim)
    return [
        meet(h),
        *queries,
        Operation("qkv", makes=h, drops=made, n_weights=model.d_model * (rank + rope)),
        *norm("latent_norm", run, rank, input_bytes=made),
        Operation("qkv", kept=c * rank, makes=c * rank, drops=both, n_weights=n_up),
        Operation("rotary", makes=q + both, drops=2 * q + out - q),  # put together, and taken apart again
        *attention(run, model.n_heads, q, q, out if copied else both, out, v_gradient=out),
        Operation("out", makes=out, n_weights=model.n_heads * latent.v_head_dim * model.d_model),
    ]


def experts(model: Model, run: Pass) -> list[Operation]:
    """Between a block's second norm and its residual: a row for each token and expert that it visits.

    The router's probabilities (fp32, all experts), the largest of them and their share of the sum; the tokens' rows,
    sorted by expert; an MLP each; the results, times the router's weight, added up. Shared experts are one wider MLP.
    However the tokens are spread, the rows are as many.
    """
    e, c, tokens = model.experts, run.number_bytes, run.n_tokens
    n_rows = tokens * e.n_experts_per_token
    h, rows, scores = c * tokens * model.d_model, c * n_rows * model.d_model, tokens * e.n_experts
    wide, chosen, which = FP32_BYTES * scores, FP32_BYTES * n_rows, INDEX_BYTES * n_rows
    cast = c != FP32_BYTES
    parts = [
        Operation("router", kept=h, makes=h, drops=c * scores, n_weights=model.d_model * e.n_experts),
        *([Operation("router", makes=c * scores, drops=wide)] if cast else []),
        Operation("router", kept=wide, makes=wide, drops=wide),  # softmax keeps its result
        Operation("router", kept=which, makes=wide, drops=chosen),  # the largest: which they were
        Operation("router", kept=chosen + FP32_BYTES * tokens, makes=chosen),  # a quotient keeps both
        *([Operation("router", makes=chosen, drops=c * n_rows)] if cast else []),
    ]
    each = mlp(run, n_rows, model.d_model, e.d_ff_expert, name="experts")
    each = [replace(part, n_weights=e.n_experts * part.n_weights) for part in each]
    each[-1] = replace(each[-1], drops=rows)
    routed = [
        Operation("experts", kept=which),  # the weights in the order of the rows
        Operation("experts", kept=which, makes=h, drops=rows),  # the rows
        *each,
        Operation("experts", kept=rows + c * n_rows, makes=2 * rows, drops=2 * rows),  # a product keeps both
        Operation("experts", kept=rows, makes=rows),  # torch's index_add keeps what it adds, for its shape alone
    ]
    if not e.n_shared_experts:
        return [meet(h), *parts, *routed]
    shared = mlp(run, tokens, model.d_model, e.n_shared_experts * e.d_ff_expert, name="shared_experts")
    shared[1] = replace(shared[1], kept=0)  # the router keeps it
    return [meet(h), *parts, meet(h), *routed, *shared]
