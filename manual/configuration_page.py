# SPDX-License-Identifier: GPL-2.0-only
"""bcached.toml(5), from the comments of config/bcached.toml, which explain every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from manual.roff import Page

CONFIGURATION = Path(__file__).parent.parent / "config" / "bcached.toml"
KEY = re.compile(r"(?:# )?(\w+ = .+)")  # in a comment: a default that depends on the environment
TABLE = re.compile(r"(?m)^\[(\w+)\]$")


class Block(NamedTuple):
    """Lines between two empty ones: a comment, and the keys that it explains, with their defaults."""

    text: str
    keys: list[str]


def configuration_page(source: str, date: str) -> str:
    """Returns the page."""
    introduction, *tables = split_tables(source)
    page = Page("bcached.toml", 5, date, "configuration of bcached")
    page.section("DESCRIPTION")
    # The first lines are the licence and the title of the file; the rest is one paragraph or more.
    for paragraph in introduction[1].split("\n#\n")[1:]:
        if text := "\n".join(line.removeprefix("#") for line in paragraph.splitlines()):
            page.paragraph(text)
    page.paragraph("The file is TOML. Every key is listed with its default.")
    for name, body in tables:
        page.section(f"[{name}]")
        for block in blocks(body):
            page.entry(block.keys, block.text)
    page.section("FILES")
    page.entry(["/etc/bcached/bcached.toml"], "The set of `bcached.service`.")
    page.entry(["/etc/bcached/NAME.toml"], "The set of `bcached@NAME.service`.")
    page.section("SEE ALSO")
    page.paragraph("`bcached`(8), `bcachectl`(8)")
    return str(page)


def split_tables(source: str) -> list[tuple[str, str]]:
    """Returns the name and the text of each table; first, with an empty name, what is before them."""
    parts = ["", *TABLE.split(source)]
    return list(zip(parts[::2], parts[1::2], strict=True))


def blocks(body: str) -> Iterator[Block]:
    """Yields each group of lines of a table."""
    for lines in body.strip().split("\n\n"):
        keys = [match[1] for line in lines.splitlines() if (match := KEY.fullmatch(line))]
        comment = [line.removeprefix("#") for line in lines.splitlines() if not KEY.fullmatch(line)]
        yield Block("\n".join(comment), keys)
