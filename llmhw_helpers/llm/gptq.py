"""GPTQ (arXiv:2210.17323): round one column after another, and let the columns that follow make up for the error."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .quantization import CannotQuantize, Quantized, Scheme, from_codes, grouped, hold, quantize, ranges, to_codes
from .transformer import Transformer, causal_attention

DAMPING = 0.01  # of the mean of the diagonal (section 3.3, step 3): keeps the inverse well-behaved
CHUNK = 64
PARTS = {  # of a block, by the inputs that they share: as one matrix, as what happens to a row concerns no other
    "attention": ("attn_q", "attn_k", "attn_v"),
    "mixed": ("attn_output",),
    "mlp": ("ffn_gate", "ffn_up"),
    "inner": ("ffn_down",),
}


def gptq(
    weights: Float[Tensor, "layers n_out n_in"], scheme: Scheme, grams: Float[Tensor, "layers inputs inputs"]
) -> list[Quantized]:
    """Matrices in small numbers, so chosen that products differ little on the inputs that `grams` were made of.

    Rounding column j of W by an error e changes the products with the inputs X by ``e x_j``. What the columns after it
    can do against that is a least-squares problem. With the Cholesky factor U of the inverse of ``H = X^T X``, upper
    triangular, its answer is: subtract ``e / U[j, j] * U[j, j+1:]`` from them (section 3.3). A group's scale is taken
    when its first column comes. Matrices of one shape go together: the steps are many and small.

    Args:
        weights: of several layers.
        scheme: absmax, affine or NF4; groups, or a scale a row.
        grams: ``X^T X`` of each layer's inputs ``[layers, n_in, n_in]``, summed over tokens.

    Raises:
        CannotQuantize: as `quantize`; or a scale a tensor, or `grams` of another shape or with what is no number.
    """
    n_layers, _, n_in = weights.shape
    size = n_in if scheme.group == "row" else scheme.group
    if scheme.group == "tensor":
        raise CannotQuantize("GPTQ takes scales as it goes: by row or by group, not by tensor")
    if grams.shape != (n_layers, n_in, n_in) or not torch.isfinite(grams).all():
        wanted = f"{n_layers} times {n_in} x {n_in} finite numbers"
        raise CannotQuantize(f"the inputs' products are {tuple(grams.shape)} and must be {wanted}")
    rest = grouped(weights.flatten(0, 1), scheme).reshape(weights.shape).clone()
    upper = torch.stack([_inverse_factor(gram) for gram in grams])
    codes, scales, minima = [], [], []
    # The columns far to the right learn of the errors once a chunk: a product instead of many small steps. A chunk is a
    # whole number of groups, so that a group's scale is taken when its columns have learnt of everything.
    chunk = CHUNK if scheme.group == "row" else max(CHUNK // size, 1) * size
    for begin in range(0, n_in, chunk):
        end, errors = min(begin + chunk, n_in), []
        now = rest[:, :, begin:end].transpose(1, 2).contiguous()  # columns as rows: a step touches neighbours
        factor = upper[:, begin:end, begin:end]
        for i in range(end - begin):
            if (begin + i) % size == 0:
                group = rest if scheme.group == "row" else now[:, i : i + size].transpose(1, 2)
                scale, minimum = ranges(group, scheme)
                scales.append(scale)
                minima.append(minimum)
            column = now[:, i, :, None]
            codes.append(to_codes(column, scale, minimum, scheme))
            error = (column - from_codes(codes[-1], scale, minimum, scheme)) / factor[:, i, i, None, None]
            now[:, i + 1 :].baddbmm_(factor[:, i, i + 1 :, None], error.transpose(1, 2), alpha=-1)
            errors.append(error)
        rest[:, :, end:].baddbmm_(torch.cat(errors, 2), upper[:, begin:end, end:], alpha=-1)
    all_minima = torch.cat(minima, 2) if scheme.kind == "affine" else [None] * n_layers
    together = zip(torch.cat(codes, 2), torch.cat(scales, 2), all_minima, strict=True)
    return [Quantized(scheme, *each) for each in together]


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper triangular U with ``U^T U = H^-1``; inputs that are always 0 count as weak ones."""
    damped = gram.double()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp(min=1e-12)
    # The inverse's upper factor from a lower one of the matrix with its order turned round: no inverse is formed. Only
    # the factor is found in fp64, where errors could make a small pivot negative.
    lower = torch.linalg.cholesky(damped.flip(0, 1)).float()
    return torch.linalg.solve_triangular(lower, torch.eye(len(gram), device=gram.device), upper=False).flip(0, 1)


@torch.no_grad()
def input_grams(model: Transformer, tokens: Int[Tensor, "batch seq_len"]) -> dict[str, Float[Tensor, "layers n n"]]:
    """``X^T X`` of what the matrices of every layer read while the model reads `tokens`, by `PARTS`.

    Raises:
        TokenError: as the model does.
    """
    x = model.embed(tokens)
    rotation, grams = model.rotation(x), {part: [] for part in PARTS}
    for block in model.blk:
        y = block.attn_norm(x)
        mixed = causal_attention(*block.qkv(y, rotation)).transpose(1, 2).flatten(2)
        x = x + block.attn_output(mixed)
        z = block.ffn_norm(x)
        inner = block.activation(block.ffn_gate(z)) * block.ffn_up(z)
        x = x + block.ffn_down(inner)
        for part, inputs in zip(PARTS, (y, mixed, z, inner), strict=True):
            rows = inputs.flatten(0, 1).float()
            grams[part].append(rows.T @ rows)
    return {part: torch.stack(each) for part, each in grams.items()}


@torch.no_grad()
def gptq_model(
    model: Transformer, scheme: Scheme, tokens: Int[Tensor, "batch seq_len"], head: Scheme | None = None
) -> Transformer:
    """A copy of the model with its blocks quantised by `gptq`, for the inputs that `tokens` give rise to.

    The inputs are those of the model as it is. (The paper takes each block's from the quantised blocks before it; then
    one layer has to wait for another, and all takes several times as long.) The table of tokens, and the head, are
    rounded to nearest; the norms stay.

    Raises:
        CannotQuantize, TokenError: as `gptq`, and as the model for the `tokens`.
    """
    grams = input_grams(model, tokens)
    result = copy.deepcopy(model)
    for layer in (result.token_embd, result.output):
        if layer is not None:
            hold(layer, quantize(layer.weight, head or scheme))
    for part, names in PARTS.items():
        sets = [[getattr(block, name) for name in names] for block in result.blk]
        weights = torch.stack([torch.cat([layer.weight for layer in layers]) for layers in sets])
        for layers, quantized in zip(sets, gptq(weights, scheme, grams.pop(part)), strict=True):
            _share_out(layers, quantized)
    return result


def _share_out(layers: list, quantized: Quantized) -> None:
    """Rows to the layers that they belong to."""
    begin = 0
    for layer in layers:
        rows = slice(begin, begin + len(layer.weight))
        minima = None if quantized.minima is None else quantized.minima[rows]
        hold(layer, Quantized(quantized.scheme, quantized.codes[rows], quantized.scales[rows], minima))
        begin = rows.stop
