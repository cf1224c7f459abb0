# SPDX-License-Identifier: GPL-2.0-only
"""The examples in C and JavaScript against a real daemon: the same commands, the same results."""

import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest

from bcached.device.claims.lease_file import OldLease
from bcached.wire.gen_map import GenMap
from instruments.clients.daemon_process import DaemonProcess, ask
from instruments.clients.relay import Relay

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
    """Builds the client in C with options, each once."""
    folder = tmp_path_factory.mktemp("examples")

    @cache
    def build(*options: str) -> str:
        program = str(folder / f"client{len(list(folder.iterdir()))}")
        command = ["cc", "-std=c17", *options, *WARNINGS, "-o", program, str(EXAMPLES / "c" / "client.c")]
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


def read_while_its_bucket_is_reused(command: list[str], daemon: DaemonProcess, folder: Path) -> str:
    """What a client says to a get whose bucket is reused between the look-up and the read."""
    data = folder / "data"
    data.write_bytes(b"x" * BUCKET_BYTES)  # a whole bucket, so that it is not open any more
    looked_up: list[bytes] = []

    def hold_up(reply: bytes) -> None:
        if b'"gen"' in reply and meddles:
            looked_up.append(reply)
            if len(looked_up) == 1:
                reuse(daemon, reply)

    meddles = False
    with (
        Relay(daemon.folder / "relay", daemon.socket_path, hold_up) as relay,
        Client(command, relay.path) as client,
    ):
        assert client.say(f"put 0 {data}").startswith("kept")
        meddles = True
        said = client.say(f"get 0 {sectors_of(data)} {folder}/got")
    assert len(looked_up) == 1
    return said


def test_data_whose_bucket_is_reused_before_the_read_is_a_miss(
    command: list[str], daemon: DaemonProcess, tmp_path: Path
) -> None:
    assert read_while_its_bucket_is_reused(command, daemon, tmp_path) == "found 0 sectors"
    assert set((tmp_path / "got").read_bytes()) == {0}


def test_a_client_that_does_not_check_gens_is_found_out(daemon: DaemonProcess, tmp_path: Path) -> None:
    needs("cc")
    folder = shutil.copytree(EXAMPLES / "c", tmp_path / "planted")
    header = (folder / "bcached.h").read_text()
    check = "__atomic_load_n(&device->map->gens[bucket], __ATOMIC_ACQUIRE) != gen"
    assert check in header
    (folder / "bcached.h").write_text(header.replace(check, "gen < 0"))
    subprocess.run(["cc", "-o", str(folder / "client"), str(folder / "client.c")], check=True)
    said = read_while_its_bucket_is_reused([str(folder / "client")], daemon, tmp_path)
    assert said == f"found {BUCKET_BYTES // SECTOR} sectors"


def test_data_looked_up_before_the_daemon_was_killed_is_looked_up_again(
    command: list[str], daemon: DaemonProcess, data: Path, tmp_path: Path
) -> None:
    looked_up: list[bytes] = []

    def kill(reply: bytes) -> None:
        if b'"gen"' in reply and meddles:
            looked_up.append(reply)
            if len(looked_up) == 1:
                daemon.end(signal.SIGKILL)
                daemon.start()
                daemon.wait_until_ready()

    meddles = False
    with (
        Relay(daemon.folder / "relay", daemon.socket_path, kill) as relay,
        Client(command, relay.path) as client,
    ):
        assert client.say(f"put 0 {data}").startswith("kept")
        meddles = True
        assert client.say(f"get 0 {sectors_of(data)} {tmp_path}/got") == f"found {sectors_of(data)} sectors"
    assert len(looked_up) >= 2
    assert (tmp_path / "got").read_bytes().startswith(data.read_bytes())
