# SPDX-License-Identifier: GPL-2.0-only
"""The state of a set, drawn for people: what `status` prints once and `top` keeps drawing."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bcached.set_state import IndexState, MemberState, SetState
from bcached.units import SECTOR_BYTES, format_size

BAR_WIDTH = 12
LOW_SHARE = 0.25  # a list emptier than this is worth a look


def picture(state: SetState, rates: dict[str, float] | None = None) -> RenderableType:
    """The whole set: a few lines about all of it, then each member; rates are of `top`."""
    parts: list[RenderableType] = [heading(state), facts(state, rates or {})]
    for member in state.members:
        parts += [Text(), member_heading(member), beside(free_lists(member, state), buckets(member))]
        parts.append(activity(member))
    return Group(*parts)


def heading(state: SetState) -> Text:
    """Which set, and whether it works."""
    text = Text.assemble(("set ", "bold"), state.set_uuid, "  ")
    if state.failed is not None:
        return text.append(f"FAILED: {state.failed}", "bold red")
    return text.append("working", "green")


def facts(state: SetState, rates: dict[str, float]) -> Table:
    """Returns a table of facts on the whole set."""
    waiting = sum(state.waiters.values())
    oldest = f", the oldest for {state.oldest_wait_s:.1f} s" if waiting else ""
    collections = sum(state.gc_runs.values())
    lines = {
        "policy": f"{state.replacement}, discards {'on' if state.discard else 'off'}, "
        + ("synchronous" if state.synchronous else "not synchronous: the cache is empty after every start"),
        "waiting": f"{waiting}{oldest}",
        "reserved": f"{format_size(state.reserved_sectors * SECTOR_BYTES)}, {state.holders} connected"
        + (f", {state.quarantined_holders} in quarantine" if state.quarantined_holders else ""),
        "allocated": format_size(state.allocated_sectors * SECTOR_BYTES)
        + f" so far, {state.open_buckets} buckets open",
        "failures": counted(state.allocation_failures),
        "gc": f"{collections} ({counted(state.gc_runs)})" + (", running now" if state.gc_running else ""),
        "journal": f"entry {state.journal_seq}, smallest prio {state.min_prio}",
        "index": index_in_words(state.index),
        "look-ups": f"{state.lookups:,}, {state.lookup_hits:,} of them hits",
    }
    if state.client_hits or state.client_misses:
        lines["client reads"] = (
            f"{state.client_hits:,} hits ({format_size(state.client_hit_bytes)}), "
            f"{state.client_misses:,} misses"
        )
    if lost := lost_in_words(state.index):
        lines["not found"] = lost
    if rates:
        lines["per second"] = counted(rates)
    return pairs(lines.items())


def index_in_words(index: IndexState) -> str:
    """Returns a line on the btree's levels and its leaves in memory."""
    memory = f"{format_size(index.memory_bytes)} of {format_size(index.memory_bytes_max)}"
    unwritten = f", {format_size(index.unwritten_bytes)} of keys unwritten" if index.unwritten_bytes else ""
    return f"levels {index.levels}, leaves in memory {index.leaves:,} ({memory}){unwritten}"


def lost_in_words(index: IndexState) -> str:
    """Returns a line on keys that no look-up returns; "" in a healthy set."""
    orphaned = format_size(index.orphaned_dirty_sectors * SECTOR_BYTES)
    parts = {
        f"{index.orphaned_keys:,} keys without a volume ({orphaned} dirty)": index.orphaned_keys,
        f"{index.stale_dirty_keys:,} stale dirty keys": index.stale_dirty_keys,
        f"{index.vanished_nodes:,} nodes of the index vanished": index.vanished_nodes,
    }
    named = [words for words, count in parts.items() if count]
    return f"{', '.join(named)}: see bcachectl explain" if named else ""


def counted(numbers: dict[str, int] | dict[str, float]) -> str:
    """Returns the numbers that are not zero, by name."""
    parts = [f"{name} {number:,.0f}" for name, number in numbers.items() if number]
    return ", ".join(parts) or "none"


def pairs(lines: Iterable[tuple[str, str]]) -> Table:
    """Returns a table of names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in lines:
        table.add_row(Text(name, "dim"), Text(value))
    return table


def member_heading(member: MemberState) -> Text:
    """Returns a line on the device, its size and its buckets."""
    size = format_size(member.bucket_count * member.bucket_bytes)
    cut = f"{member.bucket_count:,} buckets of {format_size(member.bucket_bytes)}"
    text = Text.assemble((f"device {member.device} ", "bold"), f"{member.path}  {size}, {cut}")
    if member.io_errors:
        text.append(f"  {member.io_errors} I/O errors", "bold red")
    return text


def free_lists(member: MemberState, state: SetState) -> Table:
    """Returns a table of every free list, its buckets and its waiting requests."""
    lists = [
        (
            name,
            depth,
            member.freelist_capacity[name],
            member.freelist_empty_s[name],
            state.waiters.get(name, 0),
        )
        for name, depth in member.freelist.items()
    ]
    lists.append(("free_inc", member.free_inc, member.free_inc_capacity, 0.0, 0))
    lists.append(("unused", member.unused, member.unused_capacity, 0.0, 0))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("free list", "buckets", "", "empty s", "waiting"):
        table.add_column(column, justify="left" if column in ("free list", "") else "right")
    for name, depth, capacity, empty_s, waiting in lists:
        reserve = name in member.freelist
        table.add_row(
            name,
            f"{depth:,}/{capacity:,}",
            bar(depth, capacity, warns=reserve),
            f"{empty_s:.1f}" if reserve else "",
            Text(str(waiting), "bold yellow" if waiting else "") if reserve else "",
        )
    return table


def bar(part: int, whole: int, *, warns: bool = False) -> Text:
    """Returns a bar of the fill level; with warns, a nearly empty one is yellow."""
    share = min(part / whole, 1.0) if whole else 0.0
    full = round(share * BAR_WIDTH)
    colour = "yellow" if warns and share < LOW_SHARE else "green"
    return Text.assemble(("━" * full, colour), ("━" * (BAR_WIDTH - full), "bright_black"))


def buckets(member: MemberState) -> Table:
    """Returns a table of buckets by state."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("state")
    table.add_column("buckets", justify="right")
    table.add_column("share", justify="right")
    for name, count in member.buckets.items():
        if count:
            table.add_row(name, f"{count:,}", f"{100 * count / member.bucket_count:.1f} %")
    return table


def beside(left: RenderableType, right: RenderableType) -> Table:
    """Returns two tables side by side."""
    table = Table.grid(padding=(0, 4, 0, 0))
    table.add_row(left, right)
    return table


def activity(member: MemberState) -> Table:
    """Returns a table of the device's activity so far, and its gen distances."""
    gens = f"{member.gen_distance_index} ahead of the index, {member.gen_distance_disk} of the disk"
    held_back = f", {member.held_back_by_gen} buckets held back" if member.held_back_by_gen else ""
    return pairs(
        (
            ("taken", counted(member.allocations)),
            ("invalidated", counted(member.invalidations)),
            ("prio writes", f"{member.prio_writes:,}, {member.discards:,} buckets discarded"),
            ("gens", gens + held_back + " (96 at most)"),
            ("journal", f"{member.journal_free_buckets} of {member.journal_bucket_count} buckets free"),
        )
    )
