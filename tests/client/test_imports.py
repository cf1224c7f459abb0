# SPDX-License-Identifier: GPL-2.0-only
"""What importing the library loads: little, and nothing that only the daemon needs."""

import subprocess
import sys

import pytest

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
    dear = {"asyncio", "concurrent.futures", "ssl", "logging", "bcached.wire.methods", "bcached.wire.codec"}
    assert light.isdisjoint(dear)
    assert "asyncio" in loaded_by("from bcached.client import Client")


def test_a_name_the_library_does_not_have_is_an_import_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by("from bcached.client import Nothing")
