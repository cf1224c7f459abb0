# SPDX-License-Identifier: GPL-2.0-only
"""The other people's varlink: its Python client, and its command line."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import varlink

import bcached.wire
from bcached import __version__
from bcached.wire.methods import INTERFACES
from instruments.clients.served_set import served

ALLOCATOR = "io.bcached.Allocator"


async def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "varlink.cli", *arguments]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


def session(path: str) -> dict[str, Any]:
    """What somebody does who knows nothing but the interface's description."""
    found: dict[str, Any] = {}
    with varlink.Client.new_with_address(f"unix:{path}") as client:
        found["interfaces"] = client.get_interfaces()
        with client.open(ALLOCATOR) as allocator:
            found["role"] = allocator.Describe()["role"]
            keys = allocator.Allocate(inode=0, offset=0, sectors=16)["keys"]
            found["sectors"] = keys[0]["sectors"]
            found["many"] = allocator.AllocateMany(requests=[{"inode": 0, "offset": 800, "sectors": 8}])
            found["released"] = allocator.Release(keys=keys)
            with pytest.raises(varlink.VarlinkError) as refused:
                allocator.Release(keys=keys)
            found["error"] = refused.value.error()
            found["fields"] = refused.value.parameters()
            (key,) = allocator.Allocate(inode=0, offset=64, sectors=8)["keys"]
            found["sequence"] = allocator.Commit(keys=[key])["sequence"]
            found["same"] = allocator.Lookup(inode=0, offset=0, sectors=128)["keys"] == [key]
            found["next"] = allocator.LookupMany(requests=[{"inode": 0, "offset": 0, "sectors": 8}])["next"]
            with pytest.raises(varlink.InvalidParameter) as invalid:
                allocator.Allocate(inode=-1, offset=0, sectors=16)
            found["invalid"] = invalid.value.parameters()["parameter"]
        with client.open("io.bcached.Admin") as admin:
            found["replacement"] = admin.Status()["state"]["replacement"]
            found["inode"] = admin.CreateVolume(label="by varlink")["inode"]
        with client.open("io.bcached.Monitor") as monitor:
            for news in monitor.Watch(interval_ms=100, _more=True):
                found["watched"] = news["state"]["set_uuid"]
                break
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # its client leaves sockets to the collector
async def test_its_client_finds_its_way_by_the_descriptions_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        found = await asyncio.to_thread(session, it.path)
        assert found["watched"] == str(it.cache_set.set_uuid)
    assert found["interfaces"] == list(INTERFACES)
    assert (found["role"], found["sectors"], found["released"]) == ("admin", 16, {})
    assert found["many"]["keys"][0][0]["offset"] == 800
    assert found["sequence"] > 0
    assert (found["same"], found["next"]) == (True, [None])
    assert found["error"] == f"{ALLOCATOR}.NotReserved"
    assert found["fields"]["key"]["sectors"] == 16
    assert (found["invalid"], found["replacement"], found["inode"]) == ("inode", "lru", 1)


async def test_its_command_line_shows_who_we_are(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        told = await command_line("info", f"unix:{it.path}")
    assert told.returncode == 0, told.stderr
    assert f"Version: {__version__}" in told.stdout
    assert all(name in told.stdout for name in INTERFACES)


@pytest.mark.parametrize("name", INTERFACES)
async def test_its_command_line_shows_an_interface_word_for_word(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as it:
        told = await command_line("help", f"unix:{it.path}/{name}")
    assert told.returncode == 0, told.stderr
    words = (Path(bcached.wire.__file__).parent / f"{name}.varlink").read_text()
    assert told.stdout.rstrip("\n") == words.rstrip("\n")


async def test_its_command_line_calls(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        asked = json.dumps({"inode": 0, "offset": 0, "sectors": 64})
        told = await command_line("call", f"unix:{it.path}/{ALLOCATOR}.Allocate", asked)
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["keys"][0]["sectors"] == 64
        told = await command_line("call", f"unix:{it.path}/{ALLOCATOR}.MapGens")
        assert json.loads(told.stdout)["maps"][0]["device"] == 0
        told = await command_line("call", f"unix:{it.path}/{ALLOCATOR}.Lookup", asked)
        assert json.loads(told.stdout) == {"keys": []}
        told = await command_line("call", f"unix:{it.path}/{ALLOCATOR}.Forget")
        assert "MethodNotFound" in told.stderr
