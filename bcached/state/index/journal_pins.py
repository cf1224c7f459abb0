"""Which journal entries are still needed: those whose keys are not all in written leaves."""

from collections import OrderedDict


class SeqPins:
    """Pins by seq. New seqs only come in order; one that is pinned may be pinned again."""

    def __init__(self) -> None:
        self._pins: OrderedDict[int, int] = OrderedDict()

    def pin(self, seq: int) -> None:
        """Need an entry once more."""
        if seq in self._pins:
            self._pins[seq] += 1
            return
        assert not self._pins or seq > next(reversed(self._pins)), f"entry {seq} may be gone already"
        self._pins[seq] = 1

    def unpin(self, seq: int) -> None:
        """Need it once less."""
        self._pins[seq] -= 1
        if not self._pins[seq]:
            del self._pins[seq]

    @property
    def oldest(self) -> int | None:
        """The oldest entry that is needed; None if none is."""
        return next(iter(self._pins), None)
