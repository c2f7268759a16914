"""What a head makes of a tile of tokens, in registers: as many tokens as a register holds numbers.

Scores are sums over a head's numbers, of which each token has its own register; at the end neighbours are added up
until one register has the tile's scores, a token a lane. What is mixed are sums over tokens: the head's numbers lie
side by side in `ABREAST` registers, and even and odd tokens have their own, as an addition waits for the one before.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .sums import Sums
from .vectors import F32, I32, I64, WIDTH, all_of, fetch, further, load, multiplied, same, store

TILE = WIDTH  # tokens
CHUNK = 32  # tokens that a worker looks at in one go: some tiles
ABREAST = 4  # registers
UNIT = ABREAST * WIDTH  # numbers: of a head there are as many, or some times as many, if need be with zeros at the end


@intrinsic
def no_scores(typingctx):
    """None yet."""
    sums = Sums(TILE, 1)
    return sums(), lambda context, *_: ir.Constant(context.get_value_type(sums), None)


@intrinsic
def add_scores(typingctx, sums, keys, row_bytes, q):
    """The sums, and in each the products of the next `WIDTH` numbers of a token's key with those of the query.

    Args:
        sums: `Sums` ``[TILE, 1]``.
        keys: address of the first token's; `row_bytes` from one to the next.
        q: address of the query's.
    """

    def code(context, builder, signature, args):
        found, key, row_bytes, q = args
        query = load(builder, q, WIDTH, F32)
        for t in range(TILE):
            total = multiplied(builder, builder.extract_value(found, t), load(builder, key, WIDTH, F32), query)
            found = builder.insert_value(found, total, t)
            key = builder.add(key, row_bytes)
        return found

    return sums(sums, types.int64, types.int64, types.int64), code


@intrinsic
def add_values(typingctx, values, row_bytes, shares, out):
    """To the `UNIT` numbers at address `out` come those of a tile's values, each token's times its share.

    Args:
        values: address of the first token's; `row_bytes` from one to the next.
        shares: address of theirs.
        out: address.
    """

    def code(context, builder, signature, args):
        value, row_bytes, shares, out = args
        places = [4 * WIDTH * i for i in range(ABREAST)]
        even = [load(builder, further(builder, out, place), WIDTH, F32) for place in places]
        odd = [same(register, 0.0) for register in even]
        for t in range(TILE):
            at = builder.inttoptr(further(builder, shares, 4 * t), F32.as_pointer())
            share = all_of(builder, builder.load(at, align=4), WIDTH)
            numbers = [load(builder, further(builder, value, place), WIDTH, F32) for place in places]
            more = [multiplied(builder, *both, share) for both in zip(even, numbers, strict=True)]
            even, odd = odd, more  # the next token's turn
            value = builder.add(value, row_bytes)
        for place, *both in zip(places, even, odd, strict=True):
            store(builder, builder.fadd(*both), further(builder, out, place))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


@intrinsic
def largest(typingctx, scores, n):
    """The largest of the first `n` of the `CHUNK` scores at an address, above -3e38; one that is NaN does not count."""

    def code(context, builder, signature, args):
        found, n = load(builder, args[0], CHUNK, F32), CHUNK
        least, tokens = same(found, -3e38), ir.Constant(ir.VectorType(I64, CHUNK), list(range(CHUNK)))
        counts = builder.icmp_signed("<", tokens, all_of(builder, args[1], CHUNK))
        counts = builder.and_(counts, builder.fcmp_ordered(">", found, least))
        found = builder.select(counts, found, least)
        while n > 1:
            n //= 2
            first, second = (
                builder.shuffle_vector(found, found, ir.Constant(ir.VectorType(I32, n), list(range(i, i + n))))
                for i in (0, n)
            )
            found = builder.select(builder.fcmp_ordered(">", first, second), first, second)
        return builder.extract_element(found, ir.Constant(I32, 0))

    return types.float32(types.int64, types.int64), code


@intrinsic
def fetch_line(typingctx, address):
    """Let memory send the line that lies there, next to the core."""

    def code(context, builder, signature, args):
        fetch(builder, args[0], near=3)
        return context.get_dummy_value()

    return types.void(types.int64), code
