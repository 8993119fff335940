"""Reads samples of texts from tables, whose columns are those that the run's data had."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.cell_lists import WRITTEN, as_lists
from sft_lightning.data.text.cells import missing, numbers
from sft_lightning.data.text.files import DELIMITED, Table, check_text
from sft_lightning.data.text.own_texts import check_words, column_of
from sft_lightning.serve.inputs import KEY, Inputs, digest_of
from sft_lightning.serve.items import Item, Reader

Make = Callable[[int], Item]


def of_table(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """The rows of a table; columns are those that the run's data had."""
    for option in arguments.get("given") or ():
        table.column(str(arguments[option]), f"--{option}")
    make = {"text": texts_in, "words": words_in, "pairs": sources_in}.get(reader.kind, fields_in)(
        table, reader, arguments
    )

    def item(number: int) -> Item:
        if why := (table.bad or {}).get(number):
            raise UserError("data", f"{table.name(number)} {why}")
        return make(number)

    labels = [{"line": line} for line in table.lines] if table.lines else [{} for _ in range(len(table))]
    return Inputs(table.where, labels, item, digest_of([table.columns, table.lines]), list(table.notes))


def text_column(table: Table, arguments: Mapping[str, Any]) -> str:
    """The column with texts: the one of the run's data if it is there, else `text`, else the only column of texts, which is
    noted. Raises UserError if it has numbers alone, unless the command names it.
    """
    named = arguments.get("text_column")
    try:
        found = named if named in table.columns else column_of(table, None)
    except UserError as error:
        raise UserError(KEY, error.problem, "name it by --text_column") from None
    if (named is not None and found != named) or found not in (named, "text", "tokens"):
        table.notes.append(f"{table.where} has no column '{named or 'text'}': texts are read from '{found}'")
    given = "text_column" in (arguments.get("given") or ())
    if not given and numbers(value for value in table.columns[found] if not missing(value)) is not None:
        raise UserError(
            KEY, f"{table.where}: column '{found}' holds numbers, not texts", "name another by --text_column"
        )
    return found


def texts_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Texts, with their second ones if the model was tuned on pairs."""
    first, second = text_column(table, arguments), arguments.get("pair_column")
    if second is not None:
        table.column(second, "--pair_column")

    def make(row: int) -> Item:
        name, text = table.name(row), table.columns[first][row]
        check_text(text, f"column '{first}'", name, "--text_column")
        pair = table.columns[second][row] if second is not None else None
        if second is not None:
            check_text(pair, f"column '{second}'", name, "--pair_column")
        return Item(name, text, pair)

    return make


def words_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Texts to tag, or lists of words, which a .csv or .tsv writes as texts; in the run's column of words, blanks part them."""
    column = text_column(table, arguments)
    values, words_given = table.columns[column], False
    if Path(table.where).suffix.lower() in DELIMITED:
        lists, how = as_lists(values)
        if how == WRITTEN or column == arguments.get("token_column"):
            values, words_given = lists, True
            table.notes.append(f"{table.where}: column '{column}' holds {how}")

    def make(row: int) -> Item:
        name, value = table.name(row), values[row]
        if isinstance(value, list) or (words_given and not missing(value)):
            return Item(name, words=tuple(check_words(value, column, name)))
        check_text(value, f"column '{column}'", name, "--text_column")
        return Item(name, value)

    return make


def sources_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Source texts."""
    named = arguments.get("text_column") or arguments.get("source_column") or "source"
    return texts_in(table, reader, {"text_column": named, "given": arguments.get("given")})


def fields_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Samples with parts: the columns that hold them, by the part's name."""
    columns = {name: str(arguments.get(f"{name}_column") or name) for name in reader.fields}
    if reader.kind == "tokens" and "messages" not in table.columns:
        columns["messages"] = next((n for n in ("conversations", "conversation") if n in table.columns), "messages")
    columns = {name: column for name, column in columns.items() if column in table.columns}
    several = arguments.get("choice_columns") if "choices" in reader.fields else None
    if not columns and reader.kind == "tokens":
        return texts_in(table, reader, {n: arguments.get(n) for n in ("text_column", "given")})
    if given := arguments.get("given"):
        raise UserError(f"--{given[0]}", f"has no effect on a table with {', '.join(columns)}", "leave it out")
    if not columns:
        raise UserError(
            KEY, f"{table.where} has no column {' or '.join(reader.fields)}, only {', '.join(table.columns)}"
        )

    def make(row: int) -> Item:
        held = {name: table.columns[column][row] for name, column in columns.items()}
        if several and "choices" not in held:
            held["choices"] = [table.column(name, "data.choice_columns")[row] for name in several]
        return Item(table.name(row), row={name: value for name, value in held.items() if not missing(value)})

    return make
