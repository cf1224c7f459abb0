# SPDX-License-Identifier: GPL-2.0-only
"""The verdict: what the kernel's log says of an image.

bcache says much of what matters at "info" level, damage too, and its words change between kernels. So
there is no list of bad words: every line of bcache must be one of the few that belong to a sound image,
and no line of anybody's may be a warning or worse. What this cannot know it calls a complaint.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

BEGIN = "bcached-kernel-test: begin"
WARNING = 4  # the kernel's levels: 0 emergency, 3 error, 4 warning, 5 notice, 6 info

# Since 5.9 bcache puts the name of the function before its words.
BY = r"bcache: (?:\w+\(\) )?"
SOUND = (
    BY + r"journal replay done, \d+ keys in \d+ entries, seq \d+",
    BY + r"registered cache device \w+",
    BY + r"registered backing device \w+",
    BY + r"cached dev \w+ is running already",  # at the attachment of one that was used alone before
    BY + r"Caching disabled for \w+",  # at its end
    BY + r"Caching \w+ as bcache\d+ on set [0-9a-f-]+",
    BY + r"bcache\d+ stopped",
    BY + r"Cache set [0-9a-f-]+ unregistered",
)
# On an image that no one has used yet the kernel starts afresh; on any other this is the loss of it all.
FRESH = BY + r"invalidating existing data"
# Marks of a kernel in trouble, some of whose lines come at a harmless level.
TROUBLE = re.compile(
    r"Call Trace|Oops|Kernel panic|kernel BUG|soft lockup|blocked for more than|rcu.*stall|I/O error"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log."""

    level: int
    text: str

    @property
    def of_bcache(self) -> bool:
        """Whether bcache said it."""
        return self.text.startswith("bcache: ")


def parse(raw: str) -> list[Line]:
    """The lines of `dmesg -r`: <facility and level>[seconds] text."""
    found = re.findall(r"^<(\d+)>\[ *\d+\.\d+\](?:\[[^\]]*\])? (.*)$", raw, re.MULTILINE)
    return [Line(int(level) & 7, text) for level, text in found]


def since_begin(lines: Sequence[Line]) -> list[Line] | None:
    """What came after the scenario's begin; None if the log does not hold it."""
    places = [place for place, line in enumerate(lines) if line.text == BEGIN]
    return list(lines[places[0] + 1 :]) if places else None


def complaints(lines: Sequence[Line], *, may_be_fresh: bool) -> list[str]:
    """Every line that a sound image would not have caused."""
    sound = SOUND + ((FRESH,) if may_be_fresh else ())
    return [line.text for line in lines if is_complaint(line, sound)]


def is_complaint(line: Line, sound: Sequence[str]) -> bool:
    """Whether a line tells of something wrong."""
    if line.level <= WARNING or TROUBLE.search(line.text):
        return True
    return line.of_bcache and not any(re.fullmatch(pattern, line.text) for pattern in sound)


def replayed(lines: Sequence[Line]) -> dict[str, int] | None:
    """Keys, entries and newest seq of the journal replay, as the kernel counted them."""
    pattern = BY + r"journal replay done, (\d+) keys in (\d+) entries, seq (\d+)"
    for line in lines:
        found = re.fullmatch(pattern, line.text)
        if found:
            return {"keys": int(found[1]), "entries": int(found[2]), "seq": int(found[3])}
    return None
