# SPDX-License-Identifier: GPL-2.0-only
"""The load generator: what it counts, and that errors are not counted as answers."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def serving(path: Path, answer: Callable[[bytes], list[bytes]]) -> Iterator[list[bytes]]:
    """A server that sends answer(read) piece by piece, for as long as somebody is connected; what it read."""
    heard: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(65536):
                heard.append(data)
                for piece in answer(data):
                    peer.sendall(piece)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(peer,)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for thread in threads:
            thread.join()


def load(path: Path, **fields: object) -> subprocess.CompletedProcess[str]:
    specification = {
        "path": str(path),
        "prefix": "a{inode},",
        "suffix": ";\0",
        "terminator": "\0",
        "bad": "ERR",
        "connections": 1,
        "depth": 1,
        "requests": 100,
        "limit_s": 10.0,
        "core": min(os.sched_getaffinity(0)),
    }
    return subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(specification | fields),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


@pytest.mark.parametrize(("connections", "depth"), [(1, 1), (1, 16), (4, 8)])
def test_it_sends_every_request_once_in_order_and_counts_every_reply(
    tmp_path: Path, connections: int, depth: int
) -> None:
    with serving(tmp_path / "s", lambda data: [b"x\0" * data.count(b"\0")]) as heard:
        done = load(tmp_path / "s", connections=connections, depth=depth, step=2, first=1000)
    assert json.loads(done.stdout)["replies"] == 100
    messages = b"".join(heard).split(b"\0")[:-1]
    each = 100 // connections
    for inode in range(10, 10 + connections):
        own = [message for message in messages if message.startswith(b"a%d," % inode)]
        assert own == [b"a%d,%d;" % (inode, 1000 + 2 * index) for index in range(each)]


def test_a_terminator_of_two_bytes_is_counted_when_it_comes_in_two_reads(tmp_path: Path) -> None:
    def halves(data: bytes) -> list[bytes]:
        return [b":1\r", b"\n"] * data.count(b"\0")

    with serving(tmp_path / "s", halves):
        done = load(tmp_path / "s", terminator="\r\n", numbered=False)
    assert json.loads(done.stdout)["replies"] == 100


def test_a_longer_terminator_is_counted_wherever_it_is_cut_and_not_within_a_reply(tmp_path: Path) -> None:
    def parts(data: bytes) -> list[bytes]:
        return [b"$2\r\nv", b"v\r", b"\n"] * data.count(b"\0")

    with serving(tmp_path / "s", parts):
        done = load(tmp_path / "s", terminator="v\r\n", numbered=False)
    assert json.loads(done.stdout)["replies"] == 100


def test_shuffled_requests_are_the_same_ones(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda data: [b"x\0" * data.count(b"\0")]) as heard:
        load(tmp_path / "s", depth=4, first=1000, step=2, shuffled=True)
    numbers = [int(message[4:-1]) for message in b"".join(heard).split(b"\0")[:-1]]
    assert numbers != sorted(numbers)
    assert sorted(numbers) == list(range(1000, 1200, 2))


def test_commits_name_what_was_allocated_before(tmp_path: Path) -> None:
    def answer(data: bytes) -> list[bytes]:
        replies = []
        for message in data.split(b"\0")[:-1]:
            call = json.loads(message)
            asked = call["parameters"].get("requests")
            found = (
                {"sequence": 1} if asked is None else {"keys": [[{"offset": it["offset"]}] for it in asked]}
            )
            replies.append(json.dumps({"parameters": found}).encode() + b"\0")
        return replies

    with serving(tmp_path / "s", answer) as heard:
        done = load(tmp_path / "s", commits=True, requests=10, first=1000, step=8)
    assert json.loads(done.stdout)["replies"] == 10
    calls = [json.loads(message) for message in b"".join(heard).split(b"\0")[:-1]]
    assert [call["method"].rpartition(".")[2] for call in calls] == ["AllocateMany", *["Commit"] * 10]
    assert [call["parameters"]["keys"][0]["offset"] for call in calls[1:]] == list(range(1000, 1080, 8))


def test_a_reply_that_is_an_error_is_no_reply(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda data: [b"ERR no\0" * data.count(b"\0")]):
        done = load(tmp_path / "s", numbered=False)
    assert done.returncode != 0
    assert "a bad reply" in done.stderr


def test_time_ends_it_when_requests_do_not(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda data: [b"x\0" * data.count(b"\0")]):
        done = load(tmp_path / "s", requests=5_000_000, limit_s=0.3, numbered=False)
    found = json.loads(done.stdout)
    assert 0 < found["replies"] < 5_000_000
    assert 0.2 < found["elapsed_s"] < 5
