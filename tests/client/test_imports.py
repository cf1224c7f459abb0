# SPDX-License-Identifier: GPL-2.0-only
"""What importing the library loads: little, and nothing that only the daemon needs."""

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import bcached.client
from instruments.clients.served_set import served

DAEMONS = (
    "aiofiles", "click", "fastcrc", "numpy", "prometheus_client", "pydantic", "pydantic_settings", "rich",
    "structlog", "uvloop", "bcached.device", "bcached.format", "bcached.runtime", "bcached.service",
    "bcached.state", "bcached.store", "bcached.cli",
)  # fmt: skip


def loaded_by(code: str) -> set[str]:
    code = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import bcached.client",
        "from bcached.client import Client, BlockingClient, Piece",
        "import bcached.wire.gen_map, bcached.keys, bcached.errors, bcached.units",
    ],
)
def test_nothing_that_only_the_daemon_needs_is_loaded(code: str) -> None:
    assert loaded_by(code).isdisjoint(DAEMONS)


def test_asyncio_and_the_daemons_half_of_the_protocol_are_loaded_by_their_users_only() -> None:
    light = loaded_by("from bcached.client import BlockingClient")
    dear = {
        "asyncio", "concurrent.futures", "ctypes", "logging", "random", "ssl",
        "bcached.wire.methods", "bcached.wire.codec",
    }  # fmt: skip
    assert light.isdisjoint(dear)
    assert "asyncio" in loaded_by("from bcached.client import Client")


def test_a_cache_needs_a_checksum_and_nothing_else() -> None:
    assert loaded_by("from bcached.client import Cache") & {*DAEMONS, "asyncio"} == {"fastcrc"}


def test_what_is_loaded_on_demand_is_listed() -> None:
    assert set(bcached.client.__all__) <= set(dir(bcached.client))


def test_a_name_the_library_does_not_have_is_an_import_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by("from bcached.client import Nothing")


STORE_AND_FETCH = """
import sys
sys.path[:0] = PATHS
import asyncio
from bcached.client import BlockingClient, Client
with BlockingClient(SOCKET) as client:
    client.store(0, 0, b"x" * 4096)
async def read():
    async with Client(SOCKET) as client:
        return await client.fetch(0, 0, 8)
print(len(asyncio.run(read())[0].data))
"""


async def test_msgspec_is_all_that_a_clients_environment_needs(tmp_path: Path) -> None:
    # As README installs it: without the daemon's dependencies.
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    (packages / "bcached").symlink_to(Path(__file__).parents[2] / "bcached")
    async with served(tmp_path, image=True) as it:
        code = STORE_AND_FETCH.replace("PATHS", repr([str(packages)])).replace("SOCKET", repr(it.path))
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said, errors = await done.communicate()
    assert (said.split(), errors) == ([b"4096"], b"")
