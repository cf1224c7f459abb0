# SPDX-License-Identifier: GPL-2.0-only
"""Layouts of the set's state for `top`, from the whole picture to a few lines for the smallest terminal."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from bcached.cli.online.picture import (
    activity,
    amount,
    beside,
    buckets,
    contents_in_words,
    counted,
    facts,
    free_lists,
    heading,
    member_heading,
    pairs,
    picture,
    volumes,
)
from bcached.set_state import MemberState, SetState
from bcached.units import SECTOR_BYTES, plural

# What a compact layout keeps: what changes, and what an operator looks for.
FACTS = ("waiting", "reserved", "held", "failures", "gc", "look-ups", "not found", "per second")
METADATA = ("reserved", "journal", "prio", "btree", "uuid")
FEWER_VOLUMES = (3, 1, 0)

# What it leaves out, for its last line.
COMPACT_REST = "policy, allocated, index, journal, taken, gens, writes by cause"
BRIEF_REST = f"bars, volumes, look-ups, {COMPACT_REST}"

Layout = tuple[RenderableType, str]


def layouts(state: SetState, rates: dict[str, float]) -> Iterator[Layout]:
    """Yields layouts, each shorter than the one before, with the names of what it leaves out."""
    yield picture(state, rates), ""
    for shown in FEWER_VOLUMES:
        yield (
            compact(state, rates, shown),
            COMPACT_REST if shown or not state.volumes else f"volumes, {COMPACT_REST}",
        )
    yield brief(state), BRIEF_REST


def compact(state: SetState, rates: dict[str, float], volumes_shown: int) -> RenderableType:
    """Returns the state without what hardly changes: of one device, in the 24 lines of a usual terminal."""
    lines = {name: text for name, text in facts(state, rates).items() if name in FACTS}
    parts: list[RenderableType] = [heading(state, state.set_uuid), pairs(lines)]
    for member in state.members:
        lists = beside(free_lists(member, state), buckets(merged(member.buckets), member.bucket_count))
        did = {"invalidated": activity(member)["invalidated"], "contents": stored_in_words(member)}
        parts += [member_heading(member), lists, pairs(did)]
    if state.volumes and volumes_shown:
        parts.append(volumes(state, volumes_shown))
    return Group(*parts)


def brief(state: SetState) -> RenderableType:
    """Returns a few lines on the set, and four on each device."""
    waiting = facts(state, {})["waiting"]
    running = ", collecting garbage" if state.gc_running else ""
    reserved = amount(state.reserved_sectors * SECTOR_BYTES)
    clients = f"{waiting} waiting, {reserved} reserved, {state.holders} connected{running}"
    parts = [heading(state, state.set_uuid[:8]), Text(clients)]
    for member in state.members:
        ready = (
            f"{name} {depth}/{member.freelist_capacity[name]}" for name, depth in member.freelist.items()
        )
        parts += [
            member_heading(member),
            Text(f"free lists  {', '.join(ready)}"),
            Text(f"buckets  {counted(merged(member.buckets))}"),
            Text(stored_in_words(member)),
        ]
    return Group(*parts)


def merged(states: dict[str, int]) -> dict[str, int]:
    """Returns the buckets by state, those of metadata as one."""
    metadata = sum(states.get(name, 0) for name in METADATA)
    return {"metadata": metadata, **{name: count for name, count in states.items() if name not in METADATA}}


def stored_in_words(member: MemberState) -> str:
    """Returns a line on the data of a device, and on how much was written."""
    written = amount(sum(member.written_bytes.values()))
    return f"{contents_in_words(member)}; {written} written since the start"


class Fitted:
    """The first layout that fits on the terminal, else the last, cut; the last line says what is missing."""

    def __init__(self, layouts: Iterator[Layout]) -> None:
        self._layouts = list(layouts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = console.height
        lines: list[list[Segment]] = []
        missing = ""
        for drawn, missing in self._layouts:
            lines = console.render_lines(drawn, options.update(height=None), pad=False)
            if len(lines) + bool(missing) <= height:
                break
        else:
            left_out = len(lines) - height + 1
            lines, missing = lines[: height - 1], f"{plural(left_out, 'line')} and {missing}"
        for number, line in enumerate(lines):
            yield from line
            if missing or number + 1 < len(lines):
                yield Segment.line()
        if missing:
            yield Segment(f"? for keys; left out: {missing}"[: options.max_width], Style(reverse=True))
