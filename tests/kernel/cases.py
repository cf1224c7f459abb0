"""All cases, by family."""

from .breaches import BREACHES
from .control import CONTROLS
from .lab import Case

CASES: tuple[Case, ...] = (*CONTROLS, *BREACHES)
