# SPDX-License-Identifier: GPL-2.0-only
"""Which journal entry is the newest found, and how it is known that none was newer."""

from bcached.store.journal.reader import End, JournalFound

HOW = {
    End.PROVEN: "no newer one was written, for what follows is older",
    End.PLAUSIBLE: "nothing follows it; an erased newer one would not show",
    End.SUSPECT: "a newer one may have been erased",
}


def end_line(journal: JournalFound) -> str:
    """Returns both in a line."""
    how = "there are traces of newer ones" if journal.end is None else HOW[journal.end.known]
    return f"journal: entry {journal.newest.seq} is the newest found: {how}"


def end_word(journal: JournalFound) -> str | None:
    """Returns how the end is known for a document; None if there are traces of newer entries."""
    return None if journal.end is None else journal.end.known.name.lower()
