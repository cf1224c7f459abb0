# SPDX-License-Identifier: GPL-2.0-only
"""The journal entries still needed: those whose keys are not all in written leaves."""

from collections import OrderedDict


class SeqPins:
    """Pins by seq. New seqs are pinned in order; a pinned one may be pinned again."""

    def __init__(self) -> None:
        self._pins: OrderedDict[int, int] = OrderedDict()

    def pin(self, seq: int) -> None:
        """Add a pin to an entry."""
        if seq in self._pins:
            self._pins[seq] += 1
            return
        assert not self._pins or seq > next(reversed(self._pins)), f"entry {seq} is not needed any more"
        self._pins[seq] = 1

    def unpin(self, seq: int) -> None:
        """Remove a pin from an entry."""
        self._pins[seq] -= 1
        if not self._pins[seq]:
            del self._pins[seq]

    @property
    def oldest(self) -> int | None:
        """The oldest entry needed; None if there is none."""
        return next(iter(self._pins), None)
