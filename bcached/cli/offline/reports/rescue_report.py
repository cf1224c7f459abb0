# SPDX-License-Identifier: GPL-2.0-only
"""What a rescue found and did, as lines and as a document."""

from collections.abc import Iterator

from bcached.cli.offline.reports.finding_document import finding_document
from bcached.cli.offline.reports.journal_end import end_line, end_word
from bcached.store.finding import Finding, Severity
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.rescue.rescue import Rescue
from bcached.units import SECTOR_BYTES, format_size

NAMES = {Confidence.SURE: "sure", Confidence.NEWEST: "newest", Confidence.CONFLICTING: "conflicting"}
MEANINGS = {
    Confidence.SURE: "named by an index whose journal is whole",
    Confidence.NEWEST: "the newest found; may have been overwritten or cleaned since",
    Confidence.CONFLICTING: "claimed by other keys, too",
}
OPTIONS = {Confidence.NEWEST: "--confidence newest", Confidence.CONFLICTING: "--confidence all"}


def document(rescue: Rescue) -> dict[str, object]:
    """Returns the summary as a JSON document."""
    classes = {
        name: {
            "extents": rescue.totals.extents[confidence],
            "sectors": rescue.totals.sectors[confidence],
        }
        for confidence, name in NAMES.items()
    }
    return {
        "volume": rescue.owner.inode,
        "doubt": rescue.owner.doubt or None,
        **classes,
        "unreadable": {"extents": rescue.unreadable_extents, "sectors": rescue.unreadable_sectors},
        "written_sectors": rescue.done.written_sectors,
        "equal_sectors": rescue.done.equal_sectors,
        "verified": rescue.done.is_verified,
        "complete": rescue.is_complete,
        "marked_clean": rescue.is_marked_clean,
        "old_entries": _old_entries(rescue.left),
        "other_volumes": _others(rescue),
        "journal": {"seq": rescue.left.journal.found.newest.seq, "end": end_word(rescue.left.journal.found)},
        "corrected": rescue.left.corrections,
        "damage": [finding_document(finding) for finding in _damage(rescue)],
    }


def lines(rescue: Rescue, target: str) -> Iterator[str]:
    """Yields the damage, what was found, and what was or would be done."""
    for finding in _damage(rescue):
        yield str(finding)
    yield from (f"corrected a wrong bit in {what}" for what in rescue.left.corrections)
    if not rescue.left.journal.is_lost:
        yield end_line(rescue.left.journal.found)
    yield f"dirty data of volume {rescue.owner.inode}:"
    for confidence, name in NAMES.items():
        sectors = rescue.totals.sectors[confidence]
        if sectors or confidence == Confidence.SURE:
            yield _row(name, rescue.totals.extents[confidence], sectors, MEANINGS[confidence])
    if rescue.unreadable_sectors:
        yield _row("unreadable", rescue.unreadable_extents, rescue.unreadable_sectors, "")
    if rescue.owner.doubt:
        yield f"nothing is sure: {rescue.owner.doubt}"
    if not rescue.left.doubts.index_is_whole:
        yield "parts of the index are lost (see above): there may be more dirty data than was found"
    yield from _found_elsewhere(rescue.left)
    others = _others(rescue)
    if others:
        yield f"other volumes with dirty data: {', '.join(map(str, others))}"
    yield from _outcome(rescue, target)


def _old_entries(left: SetLeft) -> dict[str, int] | None:
    if (old := left.old_keys) is None:
        return None
    return {"sectors": old.sectors, "first_seq": old.first_seq, "last_seq": old.last_seq}


def _found_elsewhere(left: SetLeft) -> Iterator[str]:
    if left.found_leaves:
        yield f"{left.found_leaves} leaves were found by a search of the whole device"
    if (old := left.old_keys) is not None:
        yield (
            f"{_size(old.sectors)} that lost leaves named was found in old entries of the journal, "
            f"{old.first_seq} to {old.last_seq}"
        )


def _outcome(rescue: Rescue, target: str) -> Iterator[str]:
    if not rescue.is_written:
        sectors = sum(rescue.totals.sectors[c] for c in NAMES if c <= rescue.most)
        yield f"would write {_size(sectors)} to {target}"
        return
    done = rescue.done
    same = f", {_size(done.equal_sectors)} of it was there already" if done.equal_sectors else ""
    verified = (
        "read back and the same" if done.is_verified else f"READ BACK WRONG: {_size(done.different_sectors)}"
    )
    yield f"{_size(done.written_sectors)} written to {target}{same}; {verified}"
    if rescue.is_marked_clean:
        yield f"{target} is detached from its cache set, and its data is whole without it"


def shortfall(rescue: Rescue, target: str) -> str:
    """Returns what is missing from the target, or would be, and how to go on, in one line."""
    if rescue.done.different_sectors:
        return f"{target}: {_size(rescue.done.different_sectors)} read back wrong: it is failing"
    verb = "not written" if rescue.is_written else "would not be written"
    return f"{target}: {verb}: {', '.join(missing_parts(rescue, 'writes'))}"


def missing_parts(rescue: Rescue, verb: str) -> list[str]:
    """Returns what of the dirty data is not chosen, and which option does it; not readable; or not found."""
    missing = [
        f"{_size(rescue.totals.sectors[confidence])} {NAMES[confidence]} ({OPTIONS[confidence]} {verb} it)"
        for confidence in OPTIONS
        if confidence > rescue.most and rescue.totals.sectors[confidence]
    ]
    if rescue.unreadable_sectors:
        missing.append(f"{_size(rescue.unreadable_sectors)} that cannot be read")
    if not rescue.left.doubts.index_is_whole:
        missing.append("what the lost parts of the index named")
    return missing


def _row(name: str, extents: int, sectors: int, meaning: str) -> str:
    return f"  {name:12}{extents:8,} extents{_size(sectors):>9}   {meaning}".rstrip()


def _size(sectors: int) -> str:
    return format_size(sectors * SECTOR_BYTES)


def _damage(rescue: Rescue) -> list[Finding]:
    found = rescue.left.checked.findings.listed
    return [finding for finding in found if finding.severity > Severity.NOTE]


def _others(rescue: Rescue) -> list[int]:
    return [inode for inode in rescue.extents.inodes() if inode != rescue.owner.inode]
