# SPDX-License-Identifier: GPL-2.0-only
"""The state of a set, drawn for people: what `status` prints once and `top` keeps drawing."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bcached.cli.locale import is_ascii_only
from bcached.index_state import IndexState
from bcached.set_state import MemberState, SetState
from bcached.units import SECTOR_BYTES, format_size, plural

BAR_WIDTH = 10
BAR, ASCII_BAR = ("█", "░"), ("#", "-")
VOLUMES_SHOWN = 8
LOW_SHARE = 0.25  # a list emptier than this is worth a look


def picture(state: SetState, rates: dict[str, float] | None = None) -> RenderableType:
    """The whole set: a few lines about all of it, then each member; rates are of `top`."""
    parts: list[RenderableType] = [heading(state, state.set_uuid), pairs(facts(state, rates or {}))]
    for member in state.members:
        lists = beside(free_lists(member, state), buckets(member.buckets, member.bucket_count))
        parts += [Text(), member_heading(member), lists, pairs(activity(member))]
    if state.volumes:
        parts += [Text(), volumes(state, VOLUMES_SHOWN)]
    return Group(*parts)


def heading(state: SetState, name: str) -> Text:
    """Which set, and whether it works."""
    text = Text.assemble(("set ", "bold"), name, "  ")
    if state.failed is not None:
        return text.append(f"FAILED: {state.failed}", "bold red")
    return text.append("working", "green")


def facts(state: SetState, rates: dict[str, float]) -> dict[str, str]:
    """Returns facts on the whole set, by their names."""
    waiting = sum(state.waiters.values())
    oldest = f", the oldest for {state.oldest_wait_s:.1f} s" if waiting else ""
    collections = sum(state.gc_runs.values())
    lines = {
        "policy": f"{state.replacement}, discards {'on' if state.discard else 'off'}, "
        + ("synchronous" if state.synchronous else "not synchronous: the cache is empty after every start"),
        "waiting": f"{waiting}{oldest}",
        "reserved": f"{amount(state.reserved_sectors * SECTOR_BYTES)}, {state.holders} connected"
        + (f", {state.quarantined_holders} in quarantine" if state.quarantined_holders else ""),
        "allocated": amount(state.allocated_sectors * SECTOR_BYTES)
        + f" so far, {plural(state.open_buckets, 'bucket')} open",
        "failures": counted(state.allocation_failures),
        "gc": f"{collections} ({counted(state.gc_runs)})" + (", running now" if state.gc_running else ""),
        "journal": f"entry {state.journal_seq}, smallest prio {state.min_prio}",
        "index": index_in_words(state.index),
        "look-ups": hits_in_words(
            state.lookups, state.lookup_hits, state.lookup_sectors, state.lookup_hit_sectors
        ),
        "held": held_in_words(state),
    }
    if state.client_hits or state.client_misses:
        lines["client reads"] = (
            f"{plural(state.client_hits, 'hit')} ({amount(state.client_hit_bytes)}), "
            f"{state.client_misses:,} {'miss' if state.client_misses == 1 else 'misses'}"
        )
    if lost := lost_in_words(state.index):
        lines["not found"] = lost
    if rates:
        lines["per second"] = rates_in_words(rates)
    return lines


def rates_in_words(rates: dict[str, float]) -> str:
    """Returns a line on what happens each second."""
    size = amount(round(rates["sectors allocated"]) * SECTOR_BYTES)
    others = {name: rate for name, rate in rates.items() if name != "sectors allocated"}
    return f"{size} allocated, {counted(others)}" if any(rates.values()) else "nothing"


def index_in_words(index: IndexState) -> str:
    """Returns a line on the btree's levels and its leaves in memory."""
    memory = f"{format_size(index.memory_bytes)} of {format_size(index.memory_bytes_max)}"
    unwritten = f", {amount(index.unwritten_bytes)} of keys unwritten" if index.unwritten_bytes else ""
    waiting = f", {plural(index.waiting_keys, 'key')} waiting for leaves" if index.waiting_keys else ""
    levels, leaves = plural(index.levels, "level"), "leaf" if index.leaves == 1 else "leaves"
    return f"{levels}, {index.leaves:,} {leaves} in memory ({memory}){unwritten}{waiting}"


def amount(size_bytes: int) -> str:
    """Returns a size with its unit: bytes have no suffix of their own."""
    return plural(size_bytes, "byte") if size_bytes < 1024 else format_size(size_bytes)


def percent(part: int, whole: int) -> str:
    """Returns a share in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


def hits_in_words(lookups: int, hits: int, sectors: int, hit_sectors: int) -> str:
    """Returns a line on look-ups, and how many of them and of their bytes were found."""
    if not lookups:
        return "none"
    return f"{lookups:,}, {percent(hits, lookups)} hits, {percent(hit_sectors, sectors)} of the bytes"


def held_in_words(state: SetState) -> str:
    """Returns a line on who holds buckets, by the role of the peers."""
    held = [f"{plural(count, 'bucket')} by {role}" for role, count in state.held_buckets.items() if count]
    return ", ".join(held) or "no buckets"


def lost_in_words(index: IndexState) -> str:
    """Returns a line on keys that no look-up returns; "" in a healthy set."""
    orphaned = format_size(index.orphaned_dirty_sectors * SECTOR_BYTES)
    parts = {
        f"{plural(index.orphaned_keys, 'key')} without a volume ({orphaned} dirty)": index.orphaned_keys,
        plural(index.stale_dirty_keys, "stale dirty key"): index.stale_dirty_keys,
        f"{plural(index.vanished_nodes, 'node')} of the index vanished": index.vanished_nodes,
    }
    named = [words for words, count in parts.items() if count]
    return f"{', '.join(named)}: see bcachectl explain" if named else ""


def counted(numbers: dict[str, int] | dict[str, float]) -> str:
    """Returns the numbers that are not zero, by name."""
    parts = [f"{name} {number:,.0f}" for name, number in numbers.items() if number]
    return ", ".join(parts) or "none"


def pairs(lines: dict[str, str]) -> Table:
    """Returns a table of names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        table.add_row(Text(name, "dim"), Text(value))
    return table


def member_heading(member: MemberState) -> Text:
    """Returns a line on the device, its size and its buckets."""
    size = format_size(member.bucket_count * member.bucket_bytes)
    cut = f"{plural(member.bucket_count, 'bucket')} of {format_size(member.bucket_bytes)}"
    text = Text.assemble((f"device {member.device} ", "bold"), f"{member.path}  {size}, {cut}")
    if member.io_errors:
        text.append(f"  {plural(member.io_errors, 'I/O error')}", "bold red")
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
    """Returns a bar of the fill level, which needs no colour; with warns, a nearly empty one is yellow."""
    full_part, rest = ASCII_BAR if is_ascii_only() else BAR
    share = min(part / whole, 1.0) if whole else 0.0
    full = round(share * BAR_WIDTH)
    colour = "yellow" if warns and share < LOW_SHARE else "green"
    return Text.assemble((full_part * full, colour), (rest * (BAR_WIDTH - full), "bright_black"))


def buckets(states: dict[str, int], total: int) -> Table:
    """Returns a table of buckets by state."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("state")
    table.add_column("buckets", justify="right")
    table.add_column("share", justify="right")
    for name, count in states.items():
        if count:
            table.add_row(name, f"{count:,}", percent(count, total))
    return table


def beside(left: RenderableType, right: RenderableType) -> Table:
    """Returns two tables side by side."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(left, right)
    return table


def contents_in_words(member: MemberState) -> str:
    """Returns a line on the live and dirty data."""
    live, dirty = member.live_sectors * SECTOR_BYTES, member.dirty_sectors * SECTOR_BYTES
    return f"{amount(live)} live" + (f", {amount(dirty)} of it dirty" if dirty else "")


def written_in_words(member: MemberState) -> str:
    """Returns a line on the bytes written, by cause, and how many times those of the clients' data."""
    written = member.written_bytes
    total, data = sum(written.values()), written.get("data", 0)
    times = f", {total / data:.2f} times the data" if data else ""
    causes = ", ".join(f"{cause} {format_size(count)}" for cause, count in written.items() if count)
    return f"{amount(total)}{times} ({causes})" if total else "nothing yet"


def volumes(state: SetState, shown: int) -> RenderableType:
    """Returns a table of the volumes with the most data: what each holds, and how well it serves."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("volume", "label", "live", "dirty", "keys", "look-ups", "hits", "of bytes"):
        table.add_column(column, justify="left" if column in ("volume", "label") else "right")
    by_size = sorted(state.volumes.items(), key=lambda item: -item[1].live_sectors)
    for inode, one in by_size[:shown]:
        sizes = (amount(sectors * SECTOR_BYTES) for sectors in (one.live_sectors, one.dirty_sectors))
        hits = percent(one.lookup_hits, one.lookups)
        hit_bytes = percent(one.lookup_hit_sectors, one.lookup_sectors)
        table.add_row(inode, Text(one.label), *sizes, f"{one.keys:,}", f"{one.lookups:,}", hits, hit_bytes)
    left_out = len(by_size) - shown
    if left_out <= 0:
        return table
    return Group(table, f"and {plural(left_out, 'more volume')}: bcachectl --json status")


def activity(member: MemberState) -> dict[str, str]:
    """Returns facts on the device's activity so far, and its gen distances, by their names."""
    gens = f"{member.gen_distance_index} ahead of the index, {member.gen_distance_disk} of the disk"
    held_back = f", {plural(member.held_back_by_gen, 'bucket')} held back" if member.held_back_by_gen else ""
    return {
        "taken": counted(member.allocations),
        "invalidated": counted(member.invalidations),
        "contents": contents_in_words(member),
        "written": written_in_words(member),
        "prio writes": f"{member.prio_writes:,}, {plural(member.discards, 'bucket')} discarded",
        "gens": gens + held_back + " (96 at most)",
        "journal": f"{member.journal_free_buckets} of {member.journal_bucket_count} buckets free",
    }
