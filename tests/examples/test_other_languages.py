# SPDX-License-Identifier: GPL-2.0-only
"""The examples in C and JavaScript against a real daemon: the same commands, the same results."""

import contextlib
import fcntl
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import pytest

from bcached.client import BlockingClient
from bcached.device.claims.lease_file import OldLease
from bcached.wire.gen_map import GenMap
from bcached.wire.lease_lock import whole_file
from instruments.clients.daemon_process import BIN, DaemonProcess, ask
from instruments.clients.relay import Relay
from instruments.time.patience import tries

EXAMPLES = Path(__file__).parents[2] / "examples"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
VALGRIND = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=all"]
BUCKET_BYTES = 64 << 10
SECTOR = 512
WITHIN_S = 100


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds the client in C with options, or what was made of it, each once."""
    folder = tmp_path_factory.mktemp("examples")

    @cache
    def build(*options: str, source: Path = EXAMPLES / "c" / "client.c") -> str:
        program = str(folder / f"client{len(list(folder.iterdir()))}")
        command = ["cc", "-std=c11", *options, *WARNINGS, "-o", program, str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return program

    return build


@pytest.fixture(params=["c, sanitized", "node"])
def command(request: pytest.FixtureRequest, built: Any) -> list[str]:
    """How the client is started."""
    if request.param == "node":
        needs("node", "flock")
        return ["node", str(EXAMPLES / "node" / "client.mjs")]
    needs("cc")
    if request.param == "c, valgrind":
        needs("valgrind")
        return [*VALGRIND, built("-g", "-O1")]
    return [built(*SANITIZERS) if request.param == "c, sanitized" else built("-O2")]


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        assert daemon.ask("Admin.CreateVolume", label="examples")["parameters"] == {"inode": 0}
        yield daemon


class Client:
    """The program, which answers each command by one line."""

    def __init__(self, command: list[str], path: Path, inode: int = 0) -> None:
        self._process = subprocess.Popen(
            [*command, str(path), str(inode)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def begin(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")

    def reply(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def wait_until_stopped(self) -> None:
        for _ in tries(WITHIN_S):
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2][0]
            if state == "T":
                return
        raise AssertionError(f"not stopped, but {state}")

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def say(self, line: str) -> str:
        self.begin(line)
        return self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        rest, errors = self._process.communicate(timeout=WITHIN_S)
        if kind is None:
            assert (self._process.returncode, rest, errors) == (0, "", "")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of three buckets and a bit, which is not a whole number of blocks."""
    path = tmp_path / "data"
    path.write_bytes(random.Random(1).randbytes(3 * BUCKET_BYTES + 1234))
    return path


@pytest.fixture
def bucketful(tmp_path: Path) -> Path:
    """A file that fills a bucket, which is not open any more then."""
    path = tmp_path / "bucketful"
    path.write_bytes(random.Random(2).randbytes(BUCKET_BYTES))
    return path


def sectors_of(path: Path) -> int:
    return -(-path.stat().st_size // 4096) * 8


@pytest.mark.parametrize("command", ["c", "c, sanitized", "c, valgrind", "node"], indirect=True)
def test_what_is_put_is_got(command: list[str], daemon: DaemonProcess, data: Path, tmp_path: Path) -> None:
    sectors = sectors_of(data)
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put 800 {data}") == f"kept {data.stat().st_size} bytes"
        # From a gap to a gap: misses are zero.
        assert client.say(f"get 0 {800 + sectors + 80} {tmp_path}/got") == f"found {sectors} sectors"
        expected = bytes(800 * SECTOR) + data.read_bytes()
        assert (tmp_path / "got").read_bytes() == expected.ljust((800 + sectors + 80) * SECTOR, b"\0")
        assert client.say(f"get 808 8 {tmp_path}/got") == "found 8 sectors"
        assert (tmp_path / "got").read_bytes() == data.read_bytes()[4096:8192]


def test_offsets_beyond_the_doubles_are_exact(
    command: list[str], daemon: DaemonProcess, data: Path, tmp_path: Path
) -> None:
    far, sectors = (1 << 61) + 8, sectors_of(data)
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put {far} {data}").startswith("kept")
        assert client.say(f"get {far} {sectors} {tmp_path}/got") == f"found {sectors} sectors"
    (key, *_) = daemon.ask("Allocator.Lookup", inode=0, offset=far, sectors=sectors)["parameters"]["keys"]
    assert key["offset"] == far
    assert (tmp_path / "got").read_bytes().startswith(data.read_bytes())


def test_what_cannot_be_written_is_released(
    command: list[str], daemon: DaemonProcess, tmp_path: Path
) -> None:
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put 0 {tmp_path}").startswith("refused")  # a folder: it opens, and cannot be read
        assert client.say(f"get 0 8 {tmp_path}/got") == "found 0 sectors"
        assert daemon.ask("Admin.Status")["parameters"]["state"]["reserved_sectors"] == 0


def test_what_cannot_be_committed_is_released(
    command: list[str], daemon: DaemonProcess, data: Path, tmp_path: Path
) -> None:
    inode = daemon.ask("Admin.CreateVolume", label="small", sectors=1024)["parameters"]["inode"]
    with Client(command, daemon.socket_path, inode) as client:
        assert "volume 1 ends at sector 1024" in client.say(f"put 1024 {data}")
        assert client.say(f"get 0 8 {tmp_path}/got") == "found 0 sectors"
        assert daemon.ask("Admin.Status")["parameters"]["state"]["reserved_sectors"] == 0


def test_an_error_of_the_daemon_is_shown(command: list[str], daemon: DaemonProcess, data: Path) -> None:
    with Client(command, daemon.socket_path, inode=7) as client:
        assert "io.bcached.Allocator.NoSuchVolume" in client.say(f"put 0 {data}")
        assert client.say("nonsense").startswith("refused")


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_client_survives_the_daemon(
    command: list[str], daemon: DaemonProcess, data: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put 0 {data}").startswith("kept")
        daemon.end(ending)
        client.begin(f"get 0 {sectors_of(data)} {tmp_path}/got")  # waits until there is a daemon
        daemon.start()
        assert client.reply() == f"found {sectors_of(data)} sectors"
        assert (tmp_path / "got").read_bytes().startswith(data.read_bytes())
        assert client.say(f"put 8000 {data}").startswith("kept")


def test_a_client_without_a_command_gives_up_its_lease_with_the_connection(
    command: list[str], daemon: DaemonProcess, data: Path
) -> None:
    lease = OldLease(daemon.ask("Allocator.Describe")["parameters"]["lease_path"], "")
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put 0 {data}").startswith("kept")
        assert not lease.is_released()
        daemon.end(signal.SIGKILL)
        until = time.monotonic() + WITHIN_S
        while not lease.is_released():
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_client_without_a_daemon_says_what_to_do(built: Any, daemon: DaemonProcess, data: Path) -> None:
    needs("cc")
    with Client([built(*SANITIZERS, "-DPATIENCE_MS=30")], daemon.socket_path) as client:
        assert client.say(f"put 0 {data}").startswith("kept")
        daemon.end(signal.SIGKILL)
        said = client.say(f"put 0 {data}")
        assert said.startswith(f"refused: no connection to {daemon.socket_path} (")
        assert said.endswith("): start the daemon, and repeat the command")
        daemon.start()
        daemon.wait_until_ready()
        assert client.say(f"put 0 {data}").startswith("kept")


@contextlib.contextmanager
def held_up(
    command: list[str], daemon: DaemonProcess, event: Callable[[bytes], None]
) -> Iterator[tuple[Client, list[bytes]]]:
    """A client, and the replies with keys that it gets; before the first one arrives there is an event."""
    replies: list[bytes] = []

    def hold_up(reply: bytes) -> None:
        if b'"gen"' in reply:
            replies.append(reply)
            if len(replies) == 1:
                event(reply)

    with (
        Relay(daemon.folder / "relay", daemon.socket_path, hold_up) as relay,
        Client(command, relay.path) as client,
    ):
        yield client, replies


def keep(command: list[str], daemon: DaemonProcess, path: Path) -> str:
    """Have a file kept from sector 0 on; returns the command that gets it."""
    with Client(command, daemon.socket_path) as client:
        assert client.say(f"put 0 {path}").startswith("kept")
    return f"get 0 {sectors_of(path)} {path}.got"


def got(path: Path) -> bytes:
    return Path(f"{path}.got").read_bytes()[: path.stat().st_size]


def kill_and_start(daemon: DaemonProcess) -> None:
    daemon.end(signal.SIGKILL)
    daemon.start()
    daemon.wait_until_ready()


def collect_twice(daemon: DaemonProcess) -> None:
    """A gen can have wrapped around then."""
    for _ in range(2):
        assert daemon.ask("Admin.CollectGarbage", wait=True) == {"parameters": {}}


def reuse(daemon: DaemonProcess, reply: bytes) -> None:
    """Drop the keys of a reply to Lookup, and take buckets until all of theirs have a new gen."""
    keys = json.loads(reply.rstrip(b"\0"))["parameters"]["keys"]
    (gen_map,) = daemon.ask("Allocator.MapGens")["parameters"]["maps"]
    path = Path(gen_map["path"])
    epoch = GenMap.parse(memoryview(path.read_bytes()), "").gc_epoch
    assert daemon.ask("Allocator.Invalidate", inode=0, offset=0, sectors=1 << 20)["parameters"]["sectors"] > 0
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(30)
        other.connect(str(daemon.socket_path))
        while True:
            found = GenMap.parse(memoryview(path.read_bytes()), "")
            pointers = [pointer for key in keys for pointer in key["pointers"]]
            if all(found.gens[one["sector"] * SECTOR // BUCKET_BYTES] != one["gen"] for one in pointers):
                break
            assert "error" not in ask(other, "Allocator.AllocateBucket")
    assert found.gc_epoch - epoch < 2, "the epoch alone would tell"


def test_data_whose_bucket_is_reused_before_the_read_is_a_miss(
    command: list[str], daemon: DaemonProcess, bucketful: Path
) -> None:
    get = keep(command, daemon, bucketful)
    with held_up(command, daemon, partial(reuse, daemon)) as (client, replies):
        assert client.say(get) == "found 0 sectors"
        assert len(replies) == 1
    assert set(got(bucketful)) == {0}


def test_a_client_that_does_not_check_gens_is_found_out(
    built: Any, daemon: DaemonProcess, bucketful: Path, tmp_path: Path
) -> None:
    needs("cc")
    source = (EXAMPLES / "c" / "client.c").read_text()
    check = 'gen != integer(pointer, "gen")'
    assert check in source
    (tmp_path / "planted.c").write_text(source.replace(check, "false"))
    command = [built("-O1", source=tmp_path / "planted.c")]
    get = keep(command, daemon, bucketful)
    with held_up(command, daemon, partial(reuse, daemon)) as (client, _):
        assert client.say(get) == f"found {sectors_of(bucketful)} sectors"


def test_a_reply_that_arrives_two_collections_later_is_asked_for_again(
    command: list[str], daemon: DaemonProcess, data: Path
) -> None:
    get = keep(command, daemon, data)
    with held_up(command, daemon, lambda _: collect_twice(daemon)) as (client, replies):
        assert client.say(get) == f"found {sectors_of(data)} sectors"
        assert len(replies) == 2
    assert got(data) == data.read_bytes()


def test_a_put_in_which_the_daemon_is_killed_begins_again(
    command: list[str], daemon: DaemonProcess, data: Path
) -> None:
    with held_up(command, daemon, lambda _: kill_and_start(daemon)) as (client, replies):
        assert client.say(f"put 0 {data}") == f"kept {data.stat().st_size} bytes"
        assert len(replies) == 2, "allocated once more"
        assert client.say(f"get 0 {sectors_of(data)} {data}.got") == f"found {sectors_of(data)} sectors"
    assert got(data) == data.read_bytes()


def test_a_client_without_a_lease_writes_nothing(
    command: list[str], daemon: DaemonProcess, data: Path
) -> None:
    path = daemon.ask("Allocator.Describe")["parameters"]["lease_path"]
    with Client(command, daemon.socket_path) as client:
        with open(path, "r+b") as lease:
            fcntl.fcntl(lease, fcntl.F_OFD_SETLK, whole_file(fcntl.F_WRLCK))
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert client.say(f"put 0 {data}").startswith("refused: no lease")
            assert client.say(f"put 0 {data}").startswith("refused: no lease")
        state = daemon.ask("Admin.Status")["parameters"]["state"]
        assert (state["allocated_sectors"], state["reserved_sectors"]) == (0, 0)
        assert client.say(f"put 0 {data}").startswith("kept")


def test_of_two_copies_the_one_that_is_valid_is_taken(command: list[str], bucketful: Path) -> None:
    two = DaemonProcess()
    images = [two.folder / "cache.img", two.folder / "other.img"]
    made = subprocess.run([BIN / "bcachectl", "make", "-b", "64k", "--size", "64M", *images])
    assert made.returncode == 0
    one, both = str([str(images[0])]), str([str(image) for image in images])
    two.config.write_text(two.config.read_text().replace(one.replace("'", '"'), both))

    def bump(reply: bytes) -> None:
        """Give the bucket of the first copy another gen, as its reuse would."""
        (key,) = json.loads(reply.rstrip(b"\0"))["parameters"]["keys"]
        first, _ = key["pointers"]
        maps = two.ask("Allocator.MapGens")["parameters"]["maps"]
        (path,) = (entry["path"] for entry in maps if entry["device"] == first["device"])
        with open(path, "r+b") as gens:
            gens.seek(4096 + first["sector"] * SECTOR // BUCKET_BYTES)
            gens.write(bytes([first["gen"] + 1]))

    with two:
        two.wait_until_ready()
        with BlockingClient(two.socket_path) as client:
            inode = client.create_volume("copies")
            client.store(inode, 0, bucketful.read_bytes(), replicas=2)
        with held_up(command, two, bump) as (reader, replies):
            sectors = sectors_of(bucketful)
            assert reader.say(f"get 0 {sectors} {bucketful}.got") == f"found {sectors} sectors"
            assert len(replies) == 1, "without another look-up"
    assert got(bucketful) == bucketful.read_bytes()


STOP = {
    ".c": "static int checks; if (!checks++) raise(SIGSTOP);",
    ".mjs": 'if (!globalThis.stopped) { globalThis.stopped = true; process.kill(process.pid, "SIGSTOP"); }',
}


@pytest.fixture(params=["c/client.c", "node/client.mjs"])
def stopping(request: pytest.FixtureRequest, built: Any, tmp_path: Path) -> Callable[[int], list[str]]:
    """Returns how a client is started that stops itself before a step of its first check after a read."""
    source = EXAMPLES / request.param
    needs(*(["cc"] if source.suffix == ".c" else ["node", "flock"]))

    def planted(step: int) -> list[str]:
        text, count = re.subn(
            rf"(?m)^(?=[ \t]*(?:/\*|//) {step}\. )", f"{STOP[source.suffix]}\n", source.read_text()
        )
        assert count == 1
        path = tmp_path / f"planted{source.suffix}"
        path.write_text(text)
        return [built("-O1", source=path)] if source.suffix == ".c" else ["node", str(path)]

    return planted


def get_with_a_stop(
    command: list[str], daemon: DaemonProcess, data: Path, event: Callable[[bytes], None]
) -> tuple[str, int]:
    """What a client says that stops itself in a get, with an event meanwhile; how often it looked up."""
    get = keep(command, daemon, data)
    with held_up(command, daemon, lambda _: None) as (client, replies):
        client.begin(get)
        client.wait_until_stopped()
        event(replies[0])
        client.go_on()
        return client.reply(), len(replies)


def test_the_gen_is_checked_after_the_read(
    stopping: Callable[[int], list[str]], daemon: DaemonProcess, bucketful: Path
) -> None:
    said, lookups = get_with_a_stop(stopping(1), daemon, bucketful, partial(reuse, daemon))
    assert (said, lookups) == ("found 0 sectors", 1)


def test_the_header_is_checked_after_the_gen(
    stopping: Callable[[int], list[str]], daemon: DaemonProcess, bucketful: Path
) -> None:
    said, lookups = get_with_a_stop(stopping(2), daemon, bucketful, lambda _: collect_twice(daemon))
    assert (said, lookups) == (f"found {sectors_of(bucketful)} sectors", 2)


def test_the_connection_is_checked_after_the_header(
    stopping: Callable[[int], list[str]], daemon: DaemonProcess, bucketful: Path
) -> None:
    said, lookups = get_with_a_stop(stopping(3), daemon, bucketful, lambda _: kill_and_start(daemon))
    assert (said, lookups) == (f"found {sectors_of(bucketful)} sectors", 2)
