"""All cases, by family."""

from .breaches import BREACHES
from .control import CONTROLS
from .lab import Case
from .ours import OURS

CASES: tuple[Case, ...] = (*CONTROLS, *BREACHES, *OURS)
