# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcached.service.users.access import Role
from bcached.service.users.peer import peer_of
from bcached.service.users.socket_limits import SocketLimits
from instruments.clients.granted import GrantedByNumber
from instruments.clients.served_set import served
from instruments.clients.talker import Talker, call, outcome

ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    for method in sys.argv[2:]:
        connection.sendall(method.encode() + b"\\0")
    received = b""
    while received.count(b"\\0") < len(sys.argv) - 2:
        more = connection.recv(65536)
        if not more:
            break
        received += more
sys.stdout.buffer.write(received)
"""
ONE_OF_EACH = [
    call("Describe"),
    call("MapGens"),
    call("Allocate", {"inode": 0, "offset": 0, "sectors": 8}),
    call("Release", {"keys": []}),
    call("Allocate", {"inode": 0, "offset": 0, "sectors": 8, "write_prio": 1}),
    call("AllocateMany", {"requests": [{"inode": 0, "offset": 0, "sectors": 8, "write_prio": 1}]}),
    call("io.bcached.Admin.Status"),
    call("io.bcached.Admin.SetDiscard", {"discard": False}),
    call("io.bcached.Monitor.Watch"),
    call("org.varlink.service.GetInfo"),
]
DENIED = "PermissionDenied"
EXPECTED = {
    "admin": ["ok"] * 8 + ["ExpectedMore", "ok"],
    "allocator": ["ok"] * 4 + [DENIED] * 4 + ["ExpectedMore", "ok"],
    "reader": ["ok"] * 2 + [DENIED] * 6 + ["ExpectedMore", "ok"],
    "none": [DENIED] * 9 + ["ok"],
}
UID, GID = 54321, 54322


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can get to: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="bcached-roles-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


async def ask_as(path: str, *identity: str) -> list[dict[str, Any]]:
    """What another user is answered."""
    messages = [message[:-1].decode() for message in ONE_OF_EACH]
    command = ["setpriv", *identity, sys.executable, "-I", "-c", ASK, path, *messages]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(reply) for reply in run.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("role", ["admin", "allocator", "reader", "none"])
async def test_each_role_may_do_its_own_and_no_more(tmp_path: Path, role: str) -> None:
    access = GrantedByNumber({os.geteuid(): Role[role.upper()]}, {})
    async with served(tmp_path, access=access) as it, Talker(it.path) as talker:
        talker.say(*ONE_OF_EACH)
        replies = [await talker.hear() for _ in ONE_OF_EACH]
        assert [outcome(reply) for reply in replies] == EXPECTED[role]


async def test_what_is_needed_is_told_in_the_interface_that_was_called(tmp_path: Path) -> None:
    access = GrantedByNumber({os.geteuid(): Role.NONE}, {})
    async with served(tmp_path, access=access) as it, Talker(it.path) as talker:
        needs = {
            "io.bcached.Allocator.Describe": "reader",
            "io.bcached.Allocator.AllocateBucket": "allocator",
            "io.bcached.Admin.Verify": "admin",
            "io.bcached.Monitor.Watch": "reader",
        }
        for method, need in needs.items():
            interface = method.rpartition(".")[0]
            reply = await talker.ask(call(method))
            assert reply == {"error": f"{interface}.PermissionDenied", "parameters": {"need": need}}


async def test_a_role_taken_away_is_gone_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        message = call("Allocate", {"inode": 0, "offset": 0, "sectors": 8})
        assert outcome(await talker.ask(message)) == "ok"
        assert it.cache_set.statistics().held_buckets["admin"] == 1
        it.server.reload(GrantedByNumber({os.geteuid(): Role.READER}, {}), SocketLimits())
        held = it.cache_set.statistics().held_buckets
        assert (held["admin"], held["reader"]) == (0, 1), "what it holds counts for the role that it has"
        assert outcome(await talker.ask(message)) == DENIED
        assert (await talker.ask(call("Describe")))["parameters"]["role"] == "reader"


@pytest.mark.parametrize(
    ("identity", "role"),
    [
        (("--reuid", str(UID), "--clear-groups"), "none"),
        (("--reuid", "54323", "--clear-groups"), "admin"),
        (("--reuid", str(UID), "--regid", str(GID), "--clear-groups"), "allocator"),
        (("--reuid", str(UID), "--groups", f"1,2,{GID}"), "allocator"),
        (("--reuid", str(UID), "--groups", ",".join(map(str, range(3000, 3300)))), "none"),
    ],
)
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be others")
async def test_other_users_are_told_apart_by_user_group_and_further_groups(
    identity: tuple[str, ...], role: str
) -> None:
    access = GrantedByNumber({54323: Role.ADMIN}, {GID: Role.ALLOCATOR})
    with open_folder() as folder:
        async with served(folder, access=access, mode=0o666) as it:
            replies = await ask_as(it.path, *identity)
    assert [outcome(reply) for reply in replies] == EXPECTED[role]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be others")
async def test_whom_the_sockets_mode_keeps_out_does_not_come_in() -> None:
    with open_folder() as folder:
        async with served(folder, mode=0o660) as it:
            with pytest.raises(AssertionError, match="PermissionError"):
                await ask_as(it.path, "--reuid", str(UID), "--regid", str(GID), "--clear-groups")


def test_a_peer_is_who_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
        assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
        assert os.getegid() in peer.groups
        assert peer.groups >= set(os.getgroups())
