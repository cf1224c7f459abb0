# SPDX-License-Identifier: GPL-2.0-only
"""What objects by name are kept in: `Cache` and its peers, each opened by its own process."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bcached.client import Cache

SET_BYTES = 2 << 30
START_S = 60.0
RECEIVE_BYTES = 1 << 20
SHARDS = 8  # of FanoutCache, as it has them by default
OURS = "bcached"


class Store(Protocol):
    """What is compared."""

    def set(self, name: str, value: bytes, /) -> object: ...
    def get(self, name: str, /) -> object: ...
    def settle(self) -> object: ...
    def close(self) -> object: ...


class Ours:
    """settle: what was stored is visible to all."""

    def __init__(self, path: str) -> None:
        self._cache = Cache(path, "bench")
        self.set, self.get = self._cache.set, self._cache.get
        self.get(
            ""
        )  # the peers connect, or open their files, when they are made; a cache with the first call

    def settle(self) -> None:
        self._cache.flush(durable=False)

    def close(self) -> None:
        self._cache.close()


class Lmdb:
    """Without any sync."""

    def __init__(self, folder: Path) -> None:
        library: Any = import_module("lmdb")
        self._environment = library.open(str(folder), map_size=SET_BYTES, sync=False)

    def set(self, name: str, value: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(name.encode(), value)

    def get(self, name: str) -> object:
        with self._environment.begin() as transaction:
            return transaction.get(name.encode())

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self._environment.close()


class Files:
    """One for each name, written to a temporary name and renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = f".{os.getpid()}"
        folder.mkdir(exist_ok=True)

    def set(self, name: str, value: bytes) -> None:
        path = f"{self._folder}/{name}"
        with open(path + self._own, "wb") as file:
            file.write(value)
        os.rename(path + self._own, path)

    def get(self, name: str) -> bytes | None:
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class DiskCache:
    """diskcache's Cache or FanoutCache."""

    def __init__(self, kind: str, folder: Path) -> None:
        library: Any = import_module("diskcache")
        options: dict[str, Any] = {"size_limit": SET_BYTES}
        if kind == "FanoutCache":
            options["shards"] = SHARDS
        cache = getattr(library, kind)(str(folder), **options)
        self.set, self.get, self.close = cache.set, cache.get, cache.close

    def settle(self) -> None:
        pass


class Connection:
    """A plain socket, which takes less time than the usual client libraries do."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._buffer = b""

    def ask(self, *parts: bytes) -> bytes:
        """Send the parts; returns the reply's first line."""
        self._socket.sendall(b"".join(parts))
        while b"\r\n" not in self._buffer:
            self._buffer += self._received()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def take(self, length: int) -> bytes:
        """Returns the next bytes."""
        parts, missing = [self._buffer], length - len(self._buffer)
        while missing > 0:
            parts.append(self._received())
            missing -= len(parts[-1])
        whole = b"".join(parts)
        self._buffer = whole[length:]
        return whole[:length]

    def settle(self) -> None:
        """What was stored is there when its reply is."""

    def close(self) -> None:
        self._socket.close()

    def _received(self) -> bytes:
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return data


class Redis(Connection):
    """Redis's protocol."""

    def set(self, name: str, value: bytes) -> None:
        key = name.encode()
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, len(value))
        assert self.ask(head, value, b"\r\n") == b"+OK"

    def get(self, name: str) -> bytes | None:
        key = name.encode()
        length = int(self.ask(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))[1:])
        return None if length < 0 else self.take(length + 2)[:-2]


class Memcached(Connection):
    """memcached's text protocol."""

    def set(self, name: str, value: bytes) -> None:
        said = self.ask(b"set %s 0 0 %d\r\n" % (name.encode(), len(value)), value, b"\r\n")
        assert said == b"STORED", said

    def get(self, name: str) -> bytes | None:
        line = self.ask(b"get %s\r\n" % name.encode())
        if line == b"END":
            return None
        length = int(line.split()[3])
        return self.take(length + len(b"\r\nEND\r\n"))[:length]


@dataclass(frozen=True)
class Peer:
    """A kind of store, and how a process opens it."""

    name: str
    open: Callable[[], Store]


@contextmanager
def peers(folder: Path, our_socket: str, skip: Callable[[str], None]) -> Iterator[list[Peer]]:
    """All whose programs and packages are there; the others are skipped, aloud."""
    with ExitStack() as stack:
        found = [Peer(OURS, lambda: Ours(our_socket)), Peer("files", lambda: Files(folder / "files"))]
        if _has_package("lmdb", skip):
            found.append(Peer("LMDB, no sync", lambda: Lmdb(folder / "lmdb")))
        if _has_package("diskcache", skip):
            kinds = ("Cache", "FanoutCache")
            found += [Peer(f"diskcache {kind}", partial(DiskCache, kind, folder / kind)) for kind in kinds]
        if (path := stack.enter_context(server("redis-server", folder, skip))) is not None:
            found.append(Peer("Redis", partial(Redis, path)))
        if (path := stack.enter_context(server("memcached", folder, skip))) is not None:
            found.append(Peer("memcached", partial(Memcached, path)))
        yield found


def _has_package(name: str, skip: Callable[[str], None]) -> bool:
    if find_spec(name) is not None:
        return True
    skip(f"objects: the package {name} is not there (pip install {name})")
    return False


@contextmanager
def server(program: str, folder: Path, skip: Callable[[str], None]) -> Iterator[Path | None]:
    """Its socket while it runs; None if there is no such program."""
    if shutil.which(program) is None:
        skip(f"objects: the program {program} is not there")
        yield None
        return
    path = folder / f"{program}.sock"
    process = subprocess.Popen([program, *_options(program, path)], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        _wait_for(path, process)
        yield path
    finally:
        process.terminate()
        process.wait(30)


def _options(program: str, path: Path) -> list[str]:
    if program == "memcached":
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["-s", str(path), "-a", "0777", "-I", "64m", "-m", str(SET_BYTES >> 20), "-t", "2", *user]
    return ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not come up")
