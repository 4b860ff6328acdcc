"""Tables in Markdown.

The cells are not padded: published pages then change in the line of a changed number only. tabulate and pandas pad
every column to its widest cell.
"""

from collections.abc import Iterable, Sequence

_RULES = {"l": ":--", "c": ":-:", "r": "--:"}


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A table with one line a row.

    Args:
        heads: one text a column.
        rows: as many texts each.
        align: one letter a column: l, c or r.

    Returns:
        Lines that end in a newline; pipes and newlines in the texts are escaped.
    """
    lines = [f"| {' | '.join(map(escape, line))} |\n" for line in (heads, *rows)]
    rule = f"|{'|'.join(_RULES[letter] for letter in align)}|\n"
    return "".join([lines[0], rule, *lines[1:]])


def escape(text: str) -> str:
    """A text that neither ends a cell nor a line."""
    return text.replace("|", r"\|").replace("\n", " ")
