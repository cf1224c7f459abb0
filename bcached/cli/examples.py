"""How a verb's --help ends: with lines to copy."""


def examples(*lines: str) -> str:
    """Lines to copy, kept as they are: click re-flows a paragraph that does not begin with a backspace."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
