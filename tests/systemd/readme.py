# SPDX-License-Identifier: GPL-2.0-only
"""What README tells an operator to type, so that what is tested is what stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
INSTALLING = README.parent / "docs" / "installing.md"
BLOCK = re.compile(r"(?ms)^```\n(.*?)^```$")


def section(name: str, text: str) -> str:
    """A section's text."""
    parts = text.split(f"\n## {name}\n")
    assert len(parts) == 2, f"there is no section {name}"
    return parts[1].split("\n## ")[0]


def blocks(name: str, text: str | None = None) -> list[list[str]]:
    """The commands of each block in a section, a line each, without comments."""
    found = BLOCK.findall(section(name, text or README.read_text()))
    lines = [[re.sub(r"\s+# .*", "", line) for line in block.splitlines()] for block in found]
    return [[line for line in block if line] for block in lines]
