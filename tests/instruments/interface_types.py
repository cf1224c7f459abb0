# SPDX-License-Identifier: GPL-2.0-only
"""The types of the .varlink files that bcached/set_state.py declares: `make interfaces` writes them.

The interfaces Admin and Monitor contain the same types. This program writes them into both files, with
the docstrings as comments; tests/wire/test_interfaces.py compares.
"""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

import bcached.wire
from bcached.index_state import IndexState, VolumeState
from bcached.set_state import MemberState, SetState

FOLDER = Path(bcached.wire.__file__).parent
FILES = ("io.bcached.Admin.varlink", "io.bcached.Monitor.varlink")
TYPES: dict[str, type[Struct]] = {
    "Member": MemberState,
    "IndexState": IndexState,
    "VolumeState": VolumeState,
    "State": SetState,
}
WORDS = {int: "int", str: "string", float: "float", bool: "bool"}
WIDTH = 118


def word_of(kind: Any) -> str:
    """Returns a field's type in the IDL's words."""
    for name, struct in TYPES.items():
        if kind is struct:
            return name
    if kind in WORDS:
        return WORDS[kind]
    inner = [each for each in kind.__args__ if each not in (str, type(None), ...)] or [str]
    if kind.__args__[-1] is type(None):
        return f"?{word_of(kind.__args__[0])}"
    return f"[string]{word_of(inner[0])}" if kind.__origin__ is dict else f"[]{word_of(inner[0])}"


def type_of(name: str) -> str:
    """Returns a type of the IDL with its comment."""
    struct = TYPES[name]
    hints = get_type_hints(struct)
    text = " ".join((inspect.getdoc(struct) or "").split())
    comment = textwrap.fill(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
    fields = [f"  {field.name}: {word_of(hints[field.name])}" for field in msgspec.structs.fields(struct)]
    return f"{comment}\ntype {name} (\n" + ",\n".join(fields) + "\n)\n"


def with_types(text: str) -> str:
    """Returns an interface with its declared types replaced."""
    for name in TYPES:
        pattern = rf"(?:#[^\n]*\n)+type {name} \(\n.*?\n\)\n"
        (found,) = re.findall(pattern, text, flags=re.DOTALL)
        text = text.replace(found, type_of(name))
    return text


def main() -> None:
    """Write the types into both files."""
    for name in FILES:
        path = FOLDER / name
        path.write_text(with_types(path.read_text()))


if __name__ == "__main__":
    main()
