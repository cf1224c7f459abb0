# SPDX-License-Identifier: GPL-2.0-only
"""Every verb that needs a daemon, against a real one."""

import json
import os
import pty
import re
import signal
import subprocess
from typing import Any

import pytest

from bcached.cli.online.trace import FORMATS
from bcached.tracepoints import EVENTS
from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.shell import Shell, wait_until


def test_status_shows_every_list_and_state_for_people(shell: Shell) -> None:
    told = shell.told("status")
    for word in ("btree", "prio", "movinggc", "none", "free_inc", "unused", "journal", "working", "1,024"):
        assert word in told


def test_status_as_json_is_one_document_whose_states_sum_up(shell: Shell) -> None:
    (member,) = shell.document("status")["state"]["members"]
    assert sum(member["buckets"].values()) == member["bucket_count"] == 1024


def test_explain_and_verify_have_good_news_about_a_fresh_set(shell: Shell) -> None:
    assert shell.told("explain").strip()
    assert shell.document("explain")["lines"]
    assert shell.told("verify") == "all invariants hold\n"
    assert shell.document("verify") == {"violations": []}


def test_allocate_says_where_the_sectors_lie(shell: Shell) -> None:
    (key,) = shell.document("allocate", "0", "1M", "4k")["keys"]
    assert (key["inode"], key["offset"], key["sectors"]) == (0, 2048, 8)
    told = shell.told("allocate", "0", "0", "200k", "--whole", "--timeout", "1.5").splitlines()
    assert told[0].split() == ["inode", "offset", "sectors", "size", "device", "sector", "gen"]
    assert sum(int(line.split()[2]) for line in told[1:]) == 400


def test_what_the_daemon_refuses_is_one_line_with_the_numbers(shell: Shell) -> None:
    assert "no volume has inode 77" in shell.refused("allocate", "77", "0", "8")
    assert "expected a multiple of 8, the sectors of a block, found 1" in shell.refused(
        "allocate", "0", "1", "8"
    )
    assert "replicas" in shell.refused("allocate", "0", "0", "8", "--replicas", "2")
    assert "no volume has inode 500" in shell.refused("volume", "delete", "500")


def test_a_label_may_hold_what_looks_like_markup(shell: Shell) -> None:
    inode = shell.told("volume", "create", "[/b] [red]").strip()
    (line,) = (line for line in shell.told("volume", "list").splitlines() if line.split()[0] == inode)
    assert "[/b] [red]" in line
    shell.told("volume", "delete", inode)


def test_a_held_reservation_lives_exactly_as_long_as_the_command(shell: Shell) -> None:
    def reserved() -> int:
        return int(shell.document("status")["state"]["reserved_sectors"])

    wait_until(lambda: reserved() == 0)
    with shell.start("--json", "allocate", "0", "0", "4k", "--hold") as holding:
        assert holding.stdout is not None
        assert holding.stderr is not None
        first = holding.stdout.readline()
        assert reserved() == 8
        holding.send_signal(signal.SIGINT)
        assert holding.wait(20) == 0
        assert json.loads(first + holding.stdout.read())["keys"][0]["sectors"] == 8
        assert holding.stderr.read() == ""
    wait_until(lambda: reserved() == 0)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_ends_a_held_reservation_in_order_too(shell: Shell, handler: Any) -> None:
    """Also that of a job which a script has put in the background: that ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        holding = shell.start("allocate", "0", "0", "4k", "--hold")
    finally:
        signal.signal(signal.SIGINT, before)
    with holding:
        assert holding.stderr is not None
        assert holding.stderr.readline() == "held until Ctrl-C\n"
        holding.terminate()
        assert holding.wait(20) == 0


def test_a_volume_can_be_made_listed_and_deleted(shell: Shell) -> None:
    inode = shell.document("volume", "create", "scratch", "--size", "10M")["inode"]
    (volume,) = [one for one in shell.document("volume", "list")["volumes"] if one["inode"] == inode]
    assert (volume["label"], volume["sectors"], volume["flash_only"]) == ("scratch", 20480, True)
    assert "flash-only" in shell.told("volume", "list")
    assert shell.told("volume", "delete", str(inode)) == f"volume {inode} deleted\n"
    assert inode not in [one["inode"] for one in shell.document("volume", "list")["volumes"]]


def test_a_volume_keeps_the_uuid_it_is_given(shell: Shell) -> None:
    uuid = "00112233-4455-6677-8899-aabbccddeeff"
    inode = shell.told("volume", "create", "backed", "--uuid", uuid).strip()
    assert uuid in shell.told("volume", "list")
    shell.told("volume", "delete", inode)


def test_a_volume_is_given_to_an_owner_and_back_to_all(shell: Shell) -> None:
    shell.told("volume", "create", "owned", "--owner", "@54321", "--others", "nothing")
    assert shell.told("volume", "owner", "owned") == "@54321, hidden\n"
    assert "@54321, hidden" in shell.told("volume", "list")
    assert shell.told("volume", "owner", "owned", "root") == "root\n"
    assert shell.document("volume", "owner", "owned")["owner"] == {"user": 0, "others": "read"}
    assert shell.told("volume", "owner", "owned", "--others", "nothing") == "root, hidden\n"
    assert shell.told("volume", "owner", "owned", "--clear") == "no owner\n"
    assert "has no owner" in shell.misused("volume", "owner", "owned", "--others", "read")
    assert "no user has the name" in shell.misused("volume", "owner", "owned", "no-such-user")
    assert "--clear takes" in shell.misused("volume", "owner", "owned", "root", "--clear")
    assert "give --owner" in shell.misused("volume", "create", "x", "--others", "read")
    assert shell.told("volume", "owner", "owned") == "no owner\n"
    shell.told("volume", "delete", "owned")


def test_the_policy_and_discards_can_be_switched(shell: Shell) -> None:
    assert shell.told("set", "replacement", "fifo") == "replacement is fifo\n"
    assert shell.document("set", "discard", "on") == {}
    state = shell.document("status")["state"]
    assert (state["replacement"], state["discard"]) == ("fifo", True)
    shell.told("set", "replacement", "lru")
    shell.told("set", "discard", "off")


def test_gc_and_write_prios_are_done_when_they_return(shell: Shell) -> None:
    before = shell.document("status")["state"]
    assert shell.told("gc").startswith("garbage collected: leaves 1, pointers 0, of them stale 0")
    assert shell.told("write-prios") == "prios and gens are durable\n"
    after = shell.document("status")["state"]
    assert after["gc_runs"]["asked"] == before["gc_runs"]["asked"] + 1
    assert after["members"][0]["prio_writes"] > before["members"][0]["prio_writes"]
    assert shell.told("gc", "--no-wait") == "garbage collection requested\n"


class Top:
    """A `top` on a terminal of its own."""

    def __init__(self, shell: Shell, columns: int, lines: int) -> None:
        self.screen = b""
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [*shell.command, "top", "--interval", "0.1"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)},
        )
        os.close(theirs)

    def wait_for(self, words: bytes) -> None:
        self.screen = b""
        while words not in self.screen:
            self.screen += os.read(self._ours, 65536)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, bytes]:
        """Its exit status, and what it complained of."""
        while self._process.poll() is None:
            try:
                os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                break
        _, complaint = self._process.communicate(timeout=60)
        os.close(self._ours)
        return self._process.returncode, complaint


def test_top_draws_on_a_terminal_until_ctrl_c(shell: Shell) -> None:
    top = Top(shell, 120, 60)
    top.wait_for(b"free_inc")
    top.interrupt()
    assert top.end() == (0, b"")


def test_top_says_what_a_small_terminal_leaves_out_and_knows_its_keys(shell: Shell) -> None:
    top = Top(shell, 80, 24)
    top.wait_for(b"left out: policy, ")
    top.type(b"?")
    top.wait_for(b"q or Ctrl-C")
    top.type(b" ")
    top.wait_for(b"free list")
    top.type(b"q")
    assert top.end() == (0, b"")


def test_volumes_go_by_label_and_json_may_stand_behind_the_verb(shell: Shell) -> None:
    shell.told("write", "first", "2M", given=bytes(4096))
    (found,) = shell.document("lookup", "first", "2M", "4k")["keys"]
    assert json.loads(shell.told("lookup", "0", "2M", "4k", "--json"))["keys"] == [found]
    assert "did you mean 'first'?" in shell.refused("lookup", "frist", "0", "4k")
    inode = shell.document("volume", "create", "twice")["inode"]
    again = shell.run("volume", "create", "twice", "--json")
    assert again.stderr == f"bcachectl: volume {inode} has the label 'twice', too: use the inodes\n"
    assert "expected one volume, found 2" in shell.refused("volume", "delete", "twice")
    shell.told("volume", "delete", str(inode))
    shell.told("volume", "delete", "twice")
    assert "1G is larger than the set" in shell.refused("allocate", "first", "0", "1G", "--whole")


def traced(shell: Shell, *options: str) -> list[str]:
    """What `trace` prints until it ends by itself, while garbage is collected."""
    trace = subprocess.Popen([*shell.command, *options], stdout=subprocess.PIPE, text=True)
    while trace.poll() is None:
        shell.told("gc")
    output, _ = trace.communicate(timeout=60)
    assert trace.returncode == 0
    return output.splitlines()


def test_trace_prints_events_as_perf_does(shell: Shell) -> None:
    lines = traced(shell, "trace", "gc_start", "bcache:bcache_gc_end", "-n", "3")
    start, end = lines[1:] if "gc_end" in lines[0] else lines[:2]  # it may begin within a collection
    assert re.fullmatch(r" *\d+\.\d{6}: bcache:bcache_gc_start: trigger=asked", start)
    assert re.fullmatch(r" *\d+\.\d{6}: bcache:bcache_gc_end: pointers \d+ stale \d+ in \d+ us", end)
    (event,) = map(json.loads, traced(shell, "--json", "trace", "gc_st*", "-n", "1"))
    assert (event["name"], event["fields"]) == ("bcache_gc_start", {"trigger": "asked"})


def test_trace_knows_its_events_and_suggests_one_for_a_typo(shell: Shell) -> None:
    listed = [line.split()[0] for line in shell.told("trace", "--list").splitlines()]
    assert listed == list(EVENTS) == list(FORMATS)
    done = shell.run("trace", "aloc")
    assert done.exit_code == 2
    assert "no event is named 'aloc': did you mean bcache_alloc?" in done.stderr


def test_a_daemon_that_goes_away_ends_a_hold_with_one_line() -> None:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        shell = Shell(daemon.socket_path)
        shell.told("volume", "create", "first")
        with shell.start("allocate", "0", "0", "4k", "--hold") as holding:
            assert holding.stderr is not None
            assert holding.stderr.readline() == "held until Ctrl-C\n"
            assert daemon.end() == 0
            assert holding.wait(20) == 1
            (line,) = holding.stderr.read().splitlines()
    assert line.startswith("bcachectl: ")
