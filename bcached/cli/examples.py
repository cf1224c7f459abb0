# SPDX-License-Identifier: GPL-2.0-only
"""The examples at the end of a verb's --help."""


def examples(*lines: str) -> str:
    """Returns example lines as they are: click re-flows a paragraph that does not begin with a backspace."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
