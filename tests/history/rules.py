# SPDX-License-Identifier: GPL-2.0-only
"""The rules that a history must keep, applied to columns: ten million calls take seconds.

A *write* is a set, an add that has won, or a deletion. Of write a it is known that it was before write b if
    1. a was visible before b began: since its call had waited, or another process had read it; or
    2. the same worker made a before b.
Then no read may return a if before it began
    3. b was visible in the same life of the daemon, and the read lies in that life altogether;
    4. b was durable, in whichever life; or
    5. the reader itself had made b, in the same life.
And besides: no value before it was written, or under another name, or in part; and of adds that overlap one
wins, unless a deletion overlaps them, too.

A kill of the daemon may take back what was not durable: so lives are told apart. A read that finds nothing
breaks no rule, since any object may be evicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from history.record import ALL_NAMES, NUMBER_BITS, Flag, Kind, Outcome

Times = npt.NDArray[np.int64]
Rows = Any  # structured arrays of numpy, whose fields no type checker knows
NEVER = 1 << 62
TIME_BITS = 42  # of nanoseconds since the history began: more than an hour
RECORD = np.dtype(
    [
        ("began", "<i8"),
        ("ended", "<i8"),
        ("token", "<u8"),
        ("name", "<u4"),
        ("kind", "u1"),
        ("outcome", "u1"),
        ("flags", "<u2"),
    ]
)


@dataclass(frozen=True)
class Life:
    """A run of the daemon: from its start until it was told to end, and until it was gone."""

    began: int
    told_to_end: int = NEVER
    gone: int = NEVER


@dataclass(frozen=True)
class Fault:
    """A rule that was broken, and how often; an example."""

    rule: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.count} times, first {self.example}"


def rows_of(data: bytes, worker: int, start: int) -> Rows:
    """Returns the calls of one worker, with its number and the call's, and times since the start."""
    records = np.frombuffer(data, RECORD)
    records = records[records["began"] != 0]
    rows = np.empty(len(records), np.dtype([*RECORD.descr, ("worker", "<i8"), ("number", "<i8")]))
    for field in RECORD.names or ():
        rows[field] = records[field]
    rows["worker"], rows["number"] = worker, np.arange(len(records))
    rows["began"] -= start
    rows["ended"] = np.where(rows["outcome"] == Outcome.UNKNOWN, NEVER, rows["ended"] - start)
    return rows


class History:
    """All calls on one set of names, and the lives of the daemon in which they were made."""

    def __init__(self, rows: Rows, lives: Sequence[Life], names: int) -> None:
        self._lives = lives
        torn = (rows["kind"] == Kind.ADD) & (rows["outcome"] == Outcome.NOT) & (self._life_of(rows) < 0)
        rows["outcome"][torn] = Outcome.UNKNOWN  # made twice: its first attempt may have succeeded
        self._hidden_drops = _after_losses(rows, lives)
        self._reads = rows[(rows["kind"] == Kind.GET) & (rows["outcome"] != Outcome.UNKNOWN)]
        self._adds = rows[(rows["kind"] == Kind.ADD) & (rows["outcome"] == Outcome.DONE)]
        self._drops = _of_each_name(rows[rows["kind"] == Kind.DELETE], names)
        self._flushes = rows[(rows["flags"] & Flag.DURABLE > 0) & (rows["outcome"] == Outcome.DONE)]
        writes = rows[np.isin(rows["kind"], (Kind.SET, Kind.ADD)) & (rows["outcome"] != Outcome.NOT)]
        self._writes = np.concatenate([writes, self._drops[self._drops["outcome"] == Outcome.DONE]])
        self._hits = self._reads[self._reads["token"] > 0]
        self._write_of_hit = _found_in(self._writes["token"], self._hits["token"])

    def faults(self) -> list[Fault]:
        """Returns what is wrong with it."""
        hits, known = self._hits, np.flatnonzero(self._write_of_hit >= 0)
        made_by = self._writes[self._write_of_hit[known]]
        strange, early = np.ones(len(hits), bool), np.zeros(len(hits), bool)
        strange[known] = made_by["name"] != hits["name"][known]
        early[known] = made_by["began"] > hits["ended"][known]
        wrong = self._reads["flags"] & Flag.WRONG > 0
        found = [
            _fault("a value of another name, or a part of one", self._reads[wrong]),
            _fault("a value that was never stored under this name", hits[strange]),
            _fault("a value before it was stored", hits[early]),
        ]
        self._hits, self._write_of_hit = hits[~strange], self._write_of_hit[~strange]
        found += self._older_values()
        found.append(_fault("two adds at the same time have won", self._double_winners()))
        return [one for one in found if one is not None]

    # What is known of when a write was visible

    def _life_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Returns the life in which each call lies altogether, -1 for none."""
        life = np.searchsorted([one.began for one in self._lives], rows["began"], "right") - 1
        ends = np.array([one.told_to_end for one in self._lives])
        return np.where((life >= 0) & (rows["ended"] < ends[np.maximum(life, 0)]), life, -1)

    def _visible(self, life: int | None = None, after: Times | None = None) -> Times:
        """Returns when each write was visible at the latest, with evidence of that life, or of any.

        after: when the reads of each write begin that are evidence.
        """
        waited = self._writes["flags"] & Flag.WAITED > 0
        reads = self._hits["worker"] != self._writes[self._write_of_hit]["worker"]
        if life is not None:
            waited &= self._life_of(self._writes) == life
            reads &= self._life_of(self._hits) == life
        if after is not None:
            reads &= self._hits["began"] > after[self._write_of_hit]
        visible = np.where(waited, self._writes["ended"], NEVER)
        np.minimum.at(visible, self._write_of_hit[reads], self._hits["ended"][reads])
        return visible

    def _settled(self) -> Times:
        """Returns when each write was visible, or would never be: at the end of its life at the latest.

        One that returned in a later life may have been repeated there, over what was stored between.
        """
        begun = np.array([one.began for one in self._lives])
        gone = np.array([one.gone for one in self._lives])
        life = np.maximum(np.searchsorted(begun, self._writes["began"], "right") - 1, 0)
        returned = self._writes["ended"] < gone[life]
        settled = np.minimum(self._visible(), np.where(returned, gone[life], NEVER))
        is_repeated = ~returned & (self._writes["outcome"] == Outcome.DONE)
        again = np.maximum(self._visible(after=gone[life]), self._writes["ended"])
        return np.where(is_repeated, again, settled)

    # Older values

    def _older_values(self) -> list[Fault | None]:
        settled, lives = self._settled(), self._life_of(self._hits)
        writer_life = self._life_of(self._writes)
        durable = np.full(len(self._writes), NEVER)
        found: dict[str, list[Rows]] = {"visible": [], "durable": [], "own": []}
        for life in range(len(self._lives)):
            visible = self._visible(life)
            durable = np.minimum(durable, self._durable(visible, life))
            inside = np.flatnonzero(lives == life)
            found["visible"].append(self._overtaken(inside, visible, settled))
            returned = np.where(writer_life == life, self._writes["ended"], NEVER)
            found["own"].append(self._overtaken_by_reader(inside, returned, settled))
        found["durable"].append(self._overtaken(np.arange(len(lives)), durable, settled))
        told = {
            "visible": "an older value than one that was visible",
            "durable": "an older value than one that was durable",
            "own": "an older value than the reader's own",
        }
        return [_fault(told[key], np.concatenate(rows)) for key, rows in found.items()]

    def _durable(self, visible: Times, life: int) -> Times:
        """Returns when each write was durable at the latest: with the first durable call begun after it."""
        flushes = self._flushes[self._life_of(self._flushes) == life]
        flushes = flushes[np.argsort(flushes["began"])]
        done = np.append(np.minimum.accumulate(flushes["ended"][::-1])[::-1], NEVER)
        durable = done[np.searchsorted(flushes["began"], visible, "right")]
        own = (self._writes["flags"] & Flag.DURABLE > 0) & (self._life_of(self._writes) == life)
        return np.where(own, np.minimum(durable, self._writes["ended"]), durable)

    def _overtaken(self, reads: npt.NDArray[np.int64], effective: Times, settled: Times) -> Rows:
        """Returns those reads before which a later write of the name had become effective."""
        hits, at = self._hits[reads], self._write_of_hit[reads]
        writer = self._writes["worker"][at]
        began = _latest(self._writes, effective, hits, by="began")
        number = _latest(self._writes, effective, hits, by="number", worker=writer)
        return hits[(began > settled[at]) | (number > self._writes["number"][at])]

    def _overtaken_by_reader(self, reads: npt.NDArray[np.int64], returned: Times, settled: Times) -> Rows:
        """Returns those reads before which the reader itself had made a later write of the name."""
        hits, at = self._hits[reads], self._write_of_hit[reads]
        began = _latest(self._writes, returned, hits, by="began", worker=hits["worker"])
        number = _latest(self._writes, returned, hits, by="number", worker=hits["worker"])
        own = self._writes["worker"][at] == hits["worker"]
        return hits[(began > settled[at]) | own & (number > self._writes["number"][at])]

    # Adds

    def _double_winners(self) -> Rows:
        """Returns the adds that have won while another one of the name did, without a deletion beside."""
        adds = self._adds[self._life_of(self._adds) >= 0]
        adds = adds[np.lexsort((adds["began"], adds["name"]))]
        one, other = adds[:-1], adds[1:]
        overlap = (one["name"] == other["name"]) & (other["began"] < one["ended"])
        one, other = one[overlap], other[overlap]
        free = [not self._has_drop_beside(*pair) for pair in zip(one, other, strict=True)]
        return other[np.array(free, bool)]

    def _has_drop_beside(self, one: np.void, other: np.void) -> bool:
        """Whether a deletion of the name, perhaps, came between two adds."""
        end, drops = max(one["ended"], other["ended"]), self._drops[self._drops["name"] == one["name"]]
        return any(
            np.any((some["began"] < end) & (some["ended"] > one["began"]))
            for some in (drops, self._hidden_drops)
        )


def _after_losses(rows: Rows, lives: Sequence[Life]) -> Rows:
    """Returns the calls in which a worker may have dropped names: its first ones after a lost connection.

    What was stored and not committed when the connection ended, or was refused, the next call drops.
    """
    rows = rows[np.lexsort((rows["number"], rows["worker"]))]
    same_worker = np.append(False, rows["worker"][1:] == rows["worker"][:-1])
    failed = np.append(False, rows["outcome"][:-1] == Outcome.UNKNOWN)
    ended_before = np.append(0, rows["ended"][:-1])
    lost = np.zeros(len(rows), bool)
    for life in lives[1:]:
        lost |= (rows["ended"] > life.began) & ~(same_worker & (ended_before > life.began))
    return rows[lost | (same_worker & failed)]


def _latest(
    writes: Rows, effective: Times, hits: Rows, *, by: str, worker: npt.NDArray[np.int64] | None = None
) -> Times:
    """Returns, for each read, the latest of the name's writes (of a worker) that were effective before it.

    The latest by its beginning or its number; -1 without one. Groups are numbers above the times, so one
    sorted column serves all names.
    """
    group, wanted = writes["name"].astype(np.int64), hits["name"].astype(np.int64)
    if worker is not None:
        workers = int(max(writes["worker"].max(initial=0), worker.max(initial=0))) + 1
        group, wanted = group * workers + writes["worker"], wanted * workers + worker
    certain = effective < NEVER
    groups, dense = np.unique(group[certain], return_inverse=True)
    if not len(groups):
        return np.full(len(hits), -1)
    keys = (dense.astype(np.int64) << TIME_BITS) | effective[certain]
    order = np.argsort(keys, kind="stable")
    latest = np.maximum.accumulate((dense[order].astype(np.int64) << TIME_BITS) | writes[by][certain][order])
    at = np.minimum(np.searchsorted(groups, wanted), len(groups) - 1)
    limit = (at << TIME_BITS) | hits["began"]
    last = np.searchsorted(keys[order], limit, "left") - 1
    here = (groups[at] == wanted) & (last >= 0) & (dense[order][np.maximum(last, 0)] == at)
    return np.where(here, latest[np.maximum(last, 0)] & ((1 << TIME_BITS) - 1), -1)


def _of_each_name(drops: Rows, names: int) -> Rows:
    """Returns the deletions, with one of all names as one of each."""
    everything = drops["name"] == ALL_NAMES
    each = np.repeat(drops[everything], names)
    each["name"] = np.tile(np.arange(names), int(everything.sum()))
    return np.concatenate([drops[~everything], each])


def _found_in(tokens: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Returns where each wanted token is, -1 if it is not."""
    if not len(tokens):
        return np.full(len(wanted), -1)
    order = np.argsort(tokens)
    at = np.minimum(np.searchsorted(tokens, wanted, sorter=order), len(tokens) - 1)
    return np.where(tokens[order[at]] == wanted, order[at], -1)


def _fault(rule: str, rows: Rows) -> Fault | None:
    if not len(rows):
        return None
    first = rows[np.argmin(rows["began"])]
    writer, number = int(first["token"]) >> NUMBER_BITS, int(first["token"]) & ((1 << NUMBER_BITS) - 1)
    example = (
        f"name {first['name']}, worker {first['worker']}, call {first['number']} "
        f"at {first['began'] / 1e9:.6f} s, value {number} of worker {writer}"
    )
    return Fault(rule, len(rows), example)
