# SPDX-License-Identifier: GPL-2.0-only
"""All cases, by family."""

from .breaches import BREACHES
from .control import CONTROLS
from .damages import REPAIRED
from .filesystems import VIEWS
from .keys import KEYS
from .lab import Case
from .members import MEMBERS
from .ours import OURS
from .owners import OWNED
from .repairs import CASES_OF_REPAIR
from .replacing import REPLACING
from .rescues import RESCUES

CASES: tuple[Case, ...] = (
    *CONTROLS,
    *BREACHES,
    *OURS,
    *KEYS,
    *OWNED,
    *REPLACING,
    *CASES_OF_REPAIR,
    *REPAIRED,
    *MEMBERS,
    *VIEWS,
    *RESCUES,
)
