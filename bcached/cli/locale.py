# SPDX-License-Identifier: GPL-2.0-only
"""Whether the user's locale has more than ASCII: Python itself prints UTF-8 in the C locale, too."""

import os
from collections.abc import Mapping

C_LOCALES = ("", "C", "POSIX")
COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # what Python sets LC_CTYPE to in the C locale (PEP 538)


def is_ascii_only(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the locale is C, or has another encoding than UTF-8."""
    everything, characters, rest = (environment.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    if not everything and characters in COERCED:  # Python's own, unless the user's default is UTF-8, too
        characters = ""
    chosen = everything or characters or rest
    return chosen in C_LOCALES or "utf" not in chosen.lower()
