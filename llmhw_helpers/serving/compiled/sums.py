"""Sums of products in registers: a tile of some rows times some texts, in which a number once loaded serves many.

So many sums the compiler would rather keep in memory. Here they are one value, a `Sums`, whose type says how many there
are, and Python writes down the products of a tile, one after the other, while the program is compiled.

Each sum goes through its row in order, by numbers or `pairs`, `WIDTH` partial sums side by side in a register; at the
end neighbours are added up until one number is left. That is the same in any tile: a product has the same bits for any
number of texts and workers. Another processor has another width, and may round otherwise.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .formats import FORMATS
from .jitting import jit
from .pairs import PAIRED
from .texts import TEXTS
from .vectors import F32, I16, I32, I64, WIDTH, all_of, fetch, further, load, multiplied, neighbours, same, store

FEW = 2  # texts, or less, that are multiplied one after the other: sooner done than eight of which most do nothing
ROWS = 16  # that all texts are multiplied with before the next ones come
AHEAD = 8192  # bytes, for one text: what is fetched now is multiplied about when memory has sent it; else `ROWS` rows


class Sums(types.Type):
    """Sums ``[n_rows, n_texts, WIDTH]``, of `kind`: AVX-512 has room for 32 registers, and AVX2 for 16."""

    def __init__(self, n_rows: int, n_texts: int, kind: ir.Type = F32):
        self.n_rows, self.n_texts = n_rows if WIDTH == 16 or n_texts < TEXTS else 1, n_texts
        self.kind = kind
        super().__init__(f"Sums({self.n_rows}, {n_texts}, {WIDTH}, {kind})")


@register_model(Sums)
class _SumsInMemory(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(ir.VectorType(kind.kind, WIDTH), kind.n_rows * kind.n_texts))


@intrinsic
def eight_texts(typingctx):
    """No sums yet, of eight texts."""
    sums = Sums(2, TEXTS)
    return sums(), lambda context, *_: ir.Constant(context.get_value_type(sums), None)


@intrinsic
def one_text(typingctx, weights):
    """None yet, of one text: of one row, as memory sends one long stream soonest; of four if they are widened first."""
    of = FORMATS[weights.format]
    sums = Sums(1 if weights.format == "fp32" or of.pairs else 4, 1)
    return sums(weights), lambda context, *_: ir.Constant(context.get_value_type(sums), None)


@intrinsic
def no_products(typingctx, sums, weights):
    """As many sums, none yet, of the kind that products with these weights have."""
    pairs = FORMATS[weights.format].pairs
    empty = Sums(sums.n_rows, sums.n_texts, pairs.total if pairs else F32)
    return empty(sums, weights), lambda context, *_: ir.Constant(context.get_value_type(empty), None)


@intrinsic
def rows_in(typingctx, sums):
    """How many rows a tile has."""
    return types.int64(sums), lambda *_: ir.Constant(I64, sums.n_rows)


@intrinsic
def texts_in(typingctx, sums):
    """How many texts."""
    return types.int64(sums), lambda *_: ir.Constant(I64, sums.n_texts)


@intrinsic
def in_block(typingctx, weights):
    """Numbers in a block of this format."""
    return types.int64(weights), lambda *_: ir.Constant(I64, FORMATS[weights.format].n_numbers)


@jit
def in_eights(n_texts):
    """How many of so many texts are multiplied eight at a time, or up to the end; the others, `FEW`, one by one."""
    return (n_texts + TEXTS - 1 - FEW) // TEXTS * TEXTS


@intrinsic
def add_products(typingctx, sums, weights, row_bytes, last_row, x, block_bytes):
    """The sums, and in each the products of the next numbers of a row and of a text: a register's, or a block's.

    Args:
        sums: `Sums`.
        weights: where the first row's next numbers lie, see `formats`.
        row_bytes: from one row to the next.
        last_row: rows after this one are this one again: the last tile of a matrix may have fewer.
        x: where texts' next numbers lie, see `texts`; `block_bytes` from there to those of the next register.
    """
    of = FORMATS[weights.format]
    add, total = (of.pairs.add, of.pairs.total) if of.pairs else (multiplied, F32)

    def code(context, builder, signature, args):
        found, first, row_bytes, last_row, x, block_bytes = args
        if sums.kind != total:
            return found  # in a branch that is never taken: whole numbers always have steps
        rows = _rows(builder, first, row_bytes, last_row, sums.n_rows)
        if of.pairs:
            wide = [[of.pairs.weights(builder, row)] for row in rows]
        else:
            wide = [of.widen(builder, row, WIDTH) for row in rows]
        far = ir.Constant(I64, AHEAD) if sums.n_texts == 1 else builder.mul(row_bytes, ir.Constant(I64, ROWS))
        for row in rows if len(rows) * sums.n_texts > 1 else []:  # one stream the processor fetches by itself
            fetch(builder, builder.add(row, far))
        for k in range(len(wide[0])):
            for t in range(sums.n_texts):
                place = further(builder, x, 4 * WIDTH * t)
                numbers = load(builder, place, *((PAIRED, I16) if of.pairs else (WIDTH, F32)))
                for r in range(sums.n_rows):
                    found = _added(builder, found, sums.n_texts * r + t, wide[r][k], numbers, add)
            x = builder.add(x, block_bytes)
        return found

    return sums(sums, weights, *[types.int64] * 4), code


def _rows(builder, first, row_bytes, last, n):
    """Addresses of `n` rows; those after row `last` are that one again."""
    places = [first]
    for i in range(1, n):
        there = builder.icmp_signed("<=", ir.Constant(I64, i), last)
        places.append(builder.add(places[-1], builder.select(there, row_bytes, ir.Constant(I64, 0))))
    return places


def _added(builder, found, i, first, second, add=multiplied):
    """`found` with a product more in sum `i`."""
    return builder.insert_value(found, add(builder, builder.extract_value(found, i), first, second), i)


@intrinsic
def add_one_product(typingctx, total, weights, step, x):
    """The total, and one weight times its step times the number at address `x`: of formats without blocks."""
    of = FORMATS[weights.format]

    def code(context, builder, signature, args):
        total, weight_at, step, x = args
        if of.n_numbers > 1:
            return total
        number = of.pairs.one(builder, x) if of.pairs else load(builder, x, 1, F32)
        both = builder.fmul(of.widen(builder, weight_at, 1)[0], number)
        return multiplied(builder, total, builder.extract_element(both, ir.Constant(I64, 0)), step)

    return types.float32(types.float32, weights, types.float32, types.int64), code


@intrinsic
def add_times(typingctx, sums, part, steps, row_bytes, last_row):
    """The sums, and in each row's that of `part`, of any kind, times the row's fp32 number: the first's at `steps`."""

    def code(context, builder, signature, args):
        found, part, *where = args
        for r, place in enumerate(_rows(builder, *where, sums.n_rows)):
            step = builder.extract_element(load(builder, place, 1, F32), ir.Constant(I64, 0))
            steps = all_of(builder, step, WIDTH)
            for i in range(sums.n_texts * r, sums.n_texts * (r + 1)):
                more = builder.extract_value(part, i)
                if more.type != steps.type:
                    more = builder.sitofp(more, steps.type)
                found = _added(builder, found, i, more, steps)
        return found

    return sums(sums, part, types.int64, types.int64, types.int64), code


@intrinsic
def write_sums(typingctx, sums, out):
    """Leave them at address `out`, ``[n_rows, n_texts, WIDTH]``."""

    def code(context, builder, signature, args):
        for i in range(sums.n_rows * sums.n_texts):
            store(builder, builder.extract_value(args[0], i), further(builder, args[1], 4 * WIDTH * i))
        return context.get_dummy_value()

    return types.void(sums, types.int64), code


@intrinsic
def read_sums(typingctx, sums, place):
    """As many as `sums` are, from there."""

    def code(context, builder, signature, args):
        found, place = args
        for i in range(sums.n_rows * sums.n_texts):
            found = builder.insert_value(found, load(builder, further(builder, place, 4 * WIDTH * i), WIDTH, F32), i)
        return found

    return sums(sums, types.int64), code


@intrinsic
def put_totals(typingctx, sums, out):
    """Each sum's total, as fp32 ``[n_rows, n_texts]`` at address `out`."""

    def code(context, builder, signature, args):
        n = sums.n_rows * sums.n_texts  # never more than WIDTH
        found = [builder.extract_value(args[0], i) for i in range(n)]
        for _ in range(WIDTH.bit_length() - 1):  # of two registers one is made, of one half a one
            if len(found) % 2:
                found.append(same(found[0], 0.0))
            found = [neighbours(builder, *found[i : i + 2]) for i in range(0, len(found), 2)]
        kept = ir.Constant(ir.VectorType(I32, n), list(range(n)))
        store(builder, builder.shuffle_vector(found[0], found[0], kept), args[1])
        return context.get_dummy_value()

    return types.void(sums, types.int64), code
