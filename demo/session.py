# SPDX-License-Identifier: GPL-2.0-only
"""A whole session: an image, a daemon on it, a client that caches data, a crash and the recovery.

    python -m demo.session

Everything happens in a temporary directory, with the installed programs and the client library. It ends by
itself, with status 0 if every step did what it prints.
"""

import hashlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcached.client.blocking import BlockingClient
from bcached.errors import BcachedError, NoFreeBuckets
from bcached.keys import Key

BIN = Path(sys.executable).parent
START_S = 60.0
CONFIG = """\
[set]
devices = ["{folder}/cache.img"]
state_directory = "{folder}/state"
runtime_directory = "{folder}/run"
[socket]
path = "{folder}/bcached.sock"
group = ""
[access]
allocator = []
[metrics]
listen = "unix:{folder}/metrics"
[log]
level = "warning"
"""


def main() -> int:
    """Run the session; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="bcached-demo-") as name:
        folder = Path(name)
        say("1. An image in bcache's own format: 64 MiB in buckets of 64 KiB")
        show(BIN / "bcachectl", "make", "-b", "64k", "--size", "64M", folder / "cache.img")
        config = folder / "bcached.toml"
        config.write_text(CONFIG.format(folder=folder))
        config.chmod(0o600)

        say("2. A daemon on it, and a client: it reserves sectors and writes to them directly")
        with daemon(folder) as process, BlockingClient(str(folder / "bcached.sock")) as client:
            key = first_steps(client)
            say("3. Sequential writes share a bucket; another write point gets a bucket of its own")
            neighbours(client, key)
            say("4. Out of buckets: an allocation waits, and fails cleanly at its deadline")
            exhaust(client)
            say("5. What an operator sees")
            show(BIN / "bcachectl", "--socket", folder / "bcached.sock", "status")
            scrape(folder)
            say("6. A crash: the daemon is killed")
            process.kill()
        say("7. The next run opens the same image, and every invariant holds")
        with daemon(folder) as process, BlockingClient(str(folder / "bcached.sock")) as client:
            print(f"   set {client.description.set_uuid}, violations: {len(client.verify())}")
            process.send_signal(signal.SIGTERM)
            print(f"   stopped cleanly with status {process.wait(10)}")
        say("8. The superblock, as bcache-super-show prints it")
        show(BIN / "bcachectl", "show", folder / "cache.img")
    return 0


def first_steps(client: BlockingClient) -> Key:
    """Allocate, write, read back, and check the key by its gen."""
    inode = client.create_volume("photos")
    since = client.now()
    (key,) = client.allocate(inode, offset=0, sectors=64)
    (pointer,) = key.pointers
    print(
        f"   sectors {key.offset}..{key.end} of inode {inode}: at sector {pointer.sector}, gen {pointer.gen}"
    )
    data = hashlib.sha256(b"a photo").digest() * (64 * 512 // 32)
    client.write(key, data)
    assert client.read(key) == data
    assert client.is_current(key, since)
    print(f"   {len(data)} bytes written and read back; the gen is still {pointer.gen}, so the key is valid")
    return key


def neighbours(client: BlockingClient, key: Key) -> None:
    """Show where the sector allocator places the next requests."""
    (following,) = client.allocate(key.inode, offset=key.end, sectors=32)
    (elsewhere,) = client.allocate(key.inode, offset=1_000_000, sectors=32, write_point=7)
    for told, one in (("the next sectors", following), ("another write point", elsewhere)):
        print(f"   {told}: sector {one.pointers[0].sector}, bucket {one.pointers[0].sector // 128}")
    assert following.pointers[0].sector == key.pointers[0].sector + key.sectors
    assert elsewhere.pointers[0].sector // 128 != key.pointers[0].sector // 128
    client.release([following, elsewhere])


def exhaust(client: BlockingClient) -> None:
    """Hold all buckets, get a refusal, release them, and allocate again."""
    held: list[Key] = []
    try:
        while True:
            held.append(client.allocate_bucket(timeout_ms=500))
    except NoFreeBuckets as error:
        print(f"   {len(held)} whole buckets held; then: {error}")
    print(f"   {client.explain()[0]}")
    for key in held:
        client.free_bucket(key)
    client.free_bucket(client.allocate_bucket(timeout_ms=5000))
    print("   all released; the next allocation succeeds")


def scrape(folder: Path) -> None:
    """Read the free lists as Prometheus would."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "metrics"))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        with connection.makefile() as answer:
            for line in answer:
                if line.startswith("bcached_freelist_buckets"):
                    print("   " + line.rstrip())


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yields a daemon that is ready; stops it at the end if it still runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        (folder / "notify").unlink(missing_ok=True)
        manager.bind(str(folder / "notify"))
        process = subprocess.Popen(
            [BIN / "bcached", "--config", folder / "bcached.toml"],
            env={"NOTIFY_SOCKET": str(folder / "notify"), "PATH": "/usr/bin:/bin"},
        )
        try:
            manager.settimeout(START_S)
            while b"READY=1" not in (told := manager.recv(65536)):
                if process.poll() is not None:
                    raise BcachedError(f"the daemon did not start: {told.decode()}")
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(10)


def show(*command: str | Path) -> None:
    """Print a command, run it and print its output."""
    print("   $ " + " ".join([Path(command[0]).name, *map(str, command[1:])]))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        print("   " + line)


def say(words: str) -> None:
    """Print a heading."""
    print(f"\n{words}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
