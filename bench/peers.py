# SPDX-License-Identifier: GPL-2.0-only
"""The peers: servers on Unix sockets, each a process of its own, all on the same core."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.daemon import Daemon, call, daemon, fill_holes, make_image
from bench.requests import BUCKET_SECTORS, VALUE_BYTES, Request, allocate, get, incrby, lua, set_value

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
START_S = 60.0
HERE = Path(__file__).parent

BUCKET_COUNT = 1 << 18  # of 512k each: a sparse image of 128 GiB, a cache device as people have them
CONNECTIONS_MAX = 16


@dataclass(frozen=True)
class Peer:
    """A server to be loaded: its name in the table, its socket, and what it is sent."""

    name: str
    path: str
    request: Request
    inodes: tuple[int, ...] = field(default=tuple(range(10, 10 + CONNECTIONS_MAX)))
    settle: Callable[[], None] = lambda: None  # until it is done with what a load left behind


@contextmanager
def running(command: list[str], path: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server on the server's core, from when its socket answers until the block ends."""
    log = path.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)  # type: ignore[call-overload]
    try:
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        _wait_for(path, process, log)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not come up: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def echo(folder: Path, kind: str) -> Iterator[Peer]:
    """The loop alone, or the loop and the codec."""
    path = folder / f"{kind}.sock"
    with running([sys.executable, "-m", "bench.echo_server", str(path), kind], path):
        yield Peer(f"uvloop {kind}", str(path), allocate())


@contextmanager
def redis(folder: Path) -> Iterator[tuple[Peer, Peer]]:
    """Redis, as a counter and as an allocator written in Lua."""
    path = folder / "redis.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    # Small hashes and sorted sets are lists to Redis, searched from end to end; the script is faster without.
    settings += ["--hash-max-listpack-entries", "0", "--zset-max-listpack-entries", "0"]
    with running(["redis-server", *settings, "--dir", str(folder)], path):
        sha = _redis_cli(path, "SCRIPT", "LOAD", (HERE / "allocate.lua").read_text())
        fill = (
            "redis.call('HSET', 'set:open', 'clock', 0) "
            "for slot = 0, 127 do "
            " redis.call('HSET', 'set:open', slot, struct.pack('<LHBss', 0, 0, 0, 'e:' .. slot, 'p:none'));"
            " redis.call('ZADD', 'set:used', slot - 128, slot) "
            "end "
            f"for bucket = 1, {BUCKET_COUNT - 1} do redis.call('RPUSH', 'set:free', bucket) end"
        )
        _redis_cli(path, "EVAL", fill, "0")
        yield Peer("redis INCRBY", str(path), incrby()), Peer("redis Lua", str(path), lua(sha))


@contextmanager
def redis_that_keeps(folder: Path) -> Iterator[Peer]:
    """Redis, with every answer durable; it has one write and one fsync for all who wait."""
    path = folder / "redis-durable.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--save", ""]
    settings += ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
    with running(["redis-server", *settings, "--dir", str(folder)], path):
        yield Peer("redis appendfsync always", str(path), set_value())


@contextmanager
def redis_with_values(folder: Path, first: int, step: int, count: int) -> Iterator[Peer]:
    """Redis, with a value at each number."""
    path = folder / "redis-values.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    with running(["redis-server", *settings, "--dir", str(folder)], path):
        value = "v" * VALUE_BYTES
        name = f"string.format('%d', {first} + n * {step})"
        fill = f"for n = 0, {count - 1} do redis.call('SET', {name}, '{value}') end"
        _redis_cli(path, "EVAL", fill, "0")
        yield Peer("redis GET", str(path), get())


def pin(server: Daemon) -> None:
    """Have all threads of a daemon on the servers' core."""
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {SERVER_CORE})


@contextmanager
def bcached(
    folder: Path,
    volumes: int = CONNECTIONS_MAX,
    bucket_count: int = BUCKET_COUNT,
    without_holes: bool = False,
) -> Iterator[Peer]:
    """The daemon, with a volume for each connection."""
    make_image(folder, "512k", bucket_count * BUCKET_SECTORS * 512)
    if without_holes:
        fill_holes(folder / "cache.img")
    with daemon(folder) as server:
        pin(server)
        create = "io.bcached.Admin.CreateVolume"
        labels = [f"bench {number}" for number in range(volumes)]
        inodes = tuple(call(server.path, create, label=label)["inode"] for label in labels)
        yield Peer(
            "Allocate", server.path, allocate(), inodes, partial(_until_nothing_is_reserved, server.path)
        )


def _until_nothing_is_reserved(path: str) -> None:
    while call(path, "io.bcached.Admin.Status")["state"]["reserved_sectors"]:
        time.sleep(0.02)


def redis_is_here() -> bool:
    return shutil.which("redis-server") is not None and shutil.which("redis-cli") is not None


def _redis_cli(path: Path, *words: str) -> str:
    done = subprocess.run(
        ["redis-cli", "-s", str(path), *words], check=True, capture_output=True, text=True, timeout=60
    )
    if done.stdout.startswith("ERR"):
        raise RuntimeError(done.stdout)
    return done.stdout.strip()
