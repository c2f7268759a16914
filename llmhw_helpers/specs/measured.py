"""What others measured: memory, speed and efficiency of serving and training, network and storage, row by row.

The rows lie in ``measured.csv`` beside this file, with card, software, settings and source. Groups: A memory of serving
(vLLM's start-up logs), B speed of serving, C training, D network and storage, E facts about clusters. A source that
begins with ``fs:`` is a stored public text whose address was not kept; ``sure`` says how far a row is to be trusted.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from os import PathLike
from pathlib import Path

from .json_text import read_file
from .settings import OneLine

FILE = Path(__file__).with_name("measured.csv")
_ANSWERS = {"yes": True, "no": False}


class BadRow(OneLine, ValueError):
    """A row, or a file of them, that is not of this form."""


@dataclass(frozen=True)
class Row:
    """One measured figure; None where the source does not say.

    Attributes:
        id, group, quantity: its number, its group and what was measured (``"decode_single_stream"``).
        model, model_kind, dtype_quant, gpu, card_family: in the words of the source, the kinds in a few classes.
        gpu_mem_reported_gib: memory of the card that the program saw.
        n_gpu, nodes, tp_size, pp_size, dp_or_shard: how it was spread out.
        util_or_batch: share of the memory that vLLM may use (group A), texts at the same time (B), or a size (D).
        seq_len: ``"8192"``, or the lengths of prompt and answer as written.
        micro_batch: sequences that a rank trains on at once.
        software, other_inputs: program with its version, and whatever else is said.
        value, text, unit: what was measured; as a number, None where `text`, as written, is none.
        fits: whether it did.
        weights_gib, activation_gib, nontorch_gib, graph_gib, kv_gib, kv_tokens, kv_bytes_per_token_per_gpu: the other
            figures of a start-up log, GiB for each GPU.
        sanity: what was found when the row was checked.
        source: repository with file and revision, paper or thread.
        sure: ``"sure"``, ``"medium"`` or ``"low"``.
    """

    id: str
    group: str
    quantity: str
    model: str | None
    model_kind: str | None
    dtype_quant: str | None
    gpu: str | None
    card_family: str | None
    gpu_mem_reported_gib: float | None
    n_gpu: int | None
    nodes: int | None
    tp_size: int | None
    pp_size: int | None
    dp_or_shard: str | None
    util_or_batch: str | None
    seq_len: str | None
    micro_batch: int | None
    software: str | None
    other_inputs: str | None
    value: float | None
    text: str
    unit: str | None
    fits: bool | None
    weights_gib: float | None
    activation_gib: float | None
    nontorch_gib: float | None
    graph_gib: float | None
    kv_gib: float | None
    kv_tokens: int | None
    kv_bytes_per_token_per_gpu: int | None
    sanity: str | None
    source: str
    sure: str | None


def measured_rows(path: str | PathLike | None = None) -> list[Row]:
    """All rows of the course's file, or of another one with the same columns.

    Raises:
        BadRow: other columns, or a cell that should be a number and is none; the message names row and column.
        OSError: there is no such file.

    >>> rows = measured_rows()
    >>> len(rows), next(row for row in rows if row.id == "B001").value
    (449, 104.9)
    """
    return [row(cells) for cells in read_cells(path)]


def read_cells(path: str | PathLike | None = None) -> Iterator[dict[str, str]]:
    """The rows as text, for whoever wants to go on after a bad one; raises as `measured_rows` for the columns alone."""
    path = FILE if path is None else Path(path)
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise BadRow(f"{path.name} is no text in UTF-8: {error}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise BadRow(f"{path.name} lacks the columns {', '.join(missing)}")
        yield from reader
    except csv.Error as error:
        raise BadRow(f"{path.name}, line {reader.line_num}: {error}") from error


def row(cells: Mapping[str, str]) -> Row:
    """The row that stands in these cells, by column; raises as `measured_rows` for what is in them."""
    return Row(**{field.name: _typed(field, cells) for field in fields(Row)})


def _column(name: str) -> str:
    named = {"tp_size": "TP", "pp_size": "PP", "dp_or_shard": "DP_or_shard", "text": "value"}
    return named.get(name, name.removesuffix("_gib") + "_GiB" if name.endswith("_gib") else name)


COLUMNS = tuple(dict.fromkeys(_column(field.name) for field in fields(Row)))


def _typed(field: Field, cells: Mapping[str, str]):
    column = _column(field.name)
    text = (cells.get(column) or "").strip()
    if field.type is str:
        return text
    if not text:
        return None
    if field.type == str | None:
        return text
    if field.type == bool | None:
        if text not in _ANSWERS:
            raise BadRow(f"{cells.get('id')!s:.20}: {column} is {text!r:.60}, not yes, no or empty")
        return _ANSWERS[text]
    number = _number(text)
    if field.name == "value":
        return number
    whole = field.type == int | None
    if number is None or (whole and number % 1):
        asked = f"a {'whole ' * whole}number is asked for"
        raise BadRow(f"{cells.get('id')!s:.20}: {column} is {text!r:.60}, and {asked}")
    return int(number) if whole else number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
