# SPDX-License-Identifier: GPL-2.0-only
"""A man page in the making: the few macros of man(7) that man-db and mandoc both know."""

import re
from collections.abc import Iterable

import bcached

LITERAL = re.compile(r"`([^`]+)`")


class Page:
    """One page, written from top to bottom."""

    def __init__(self, name: str, section: int, date: str, summary: str) -> None:
        self._lines: list[str] = []
        version = f"bcached {bcached.__version__}"
        self._lines += [".nr HY 0", ".ad l"]  # names of options and files are neither divided nor spread
        self._lines += [f'.TH {name} {section} {date} "{version}"']
        self.section("NAME")
        self._lines.append(rf"{escaped(name)} \- {escaped(summary)}")

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def section(self, title: str) -> None:
        """Begin a section."""
        self._macro("SH", title)

    def subsection(self, title: str) -> None:
        """Begin a subsection."""
        self._macro("SS", title)

    def paragraph(self, text: str) -> None:
        """Write a paragraph; words in `backquotes` are bold."""
        self._begin_paragraph()
        self._lines.append(marked(text))

    def synopsis(self, program: str, arguments: str) -> None:
        """Write how a program is called."""
        self._lines += [rf"\fB{escaped(program)}\fR {escaped(arguments)}".rstrip()]

    def entry(self, names: Iterable[str], text: str) -> None:
        """Write an entry of a list: what it is about, in bold, one or more; and its text."""
        for macro, name in zip(_first_then("TP", "TQ"), names, strict=False):
            self._lines += [f".{macro}", rf"\fB{escaped(name)}\fR"]
        self._lines.append(marked(text))

    def example(self, lines: Iterable[str]) -> None:
        """Write lines as they are, indented."""
        self._begin_paragraph()
        self._lines += [".RS 4", ".EX", *(line_as_text(escaped(line)) for line in lines), ".EE", ".RE"]

    def _begin_paragraph(self) -> None:
        if self._lines[-1].split(" ")[0] not in {".SH", ".SS"}:  # which begin one themselves
            self._lines.append(".PP")

    def _macro(self, macro: str, *arguments: str) -> None:
        self._lines.append(" ".join([f".{macro}", *(f'"{escaped(argument)}"' for argument in arguments)]))


def _first_then(first: str, then: str) -> Iterable[str]:
    yield first
    while True:
        yield then


def escaped(text: str) -> str:
    """Returns the text with nothing that troff interprets, and hyphens that can be searched and copied."""
    for plain, roff in (("\\", r"\e"), ("-", r"\-"), ('"', r"\(dq"), ("'", r"\(aq"), ("`", r"\(ga")):
        text = text.replace(plain, roff)
    return text.replace("~", r"\(ti").replace("^", r"\(ha")


def marked(text: str) -> str:
    """Returns a paragraph on one line, its `literals` in bold."""
    parts = LITERAL.split(" ".join(text.split()))
    bold = [rf"\fB{escaped(part)}\fR" if index % 2 else escaped(part) for index, part in enumerate(parts)]
    return line_as_text("".join(bold))


def line_as_text(line: str) -> str:
    """Returns the line so that it is no request even if it begins with a dot."""
    return rf"\&{line}" if line.startswith(".") else line
