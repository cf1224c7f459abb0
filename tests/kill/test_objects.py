# SPDX-License-Identifier: GPL-2.0-only
"""Objects of a cache through a few kills and power cuts; `make kill-test` has hundreds."""

import subprocess
import sys

import pytest

from bcached.client import Cache
from history.plants import planted
from instruments.clients.daemon_process import DaemonProcess

from .ledger import LostError
from .objects import run_object_cuts, run_object_kills
from .recorder import why_not


def test_durable_objects_survive_kills_of_the_daemon() -> None:
    result = run_object_kills(3, 1)
    assert result.kills == 3
    assert result.found > 0
    assert result.figures["durable sets"] > 0


def test_a_set_that_is_durable_too_early_is_found_out() -> None:
    with planted("durability"), pytest.raises(LostError):
        run_object_kills(40, 1)


@pytest.mark.root
def test_durable_objects_survive_power_cuts() -> None:
    if (missing := why_not()) is not None:
        pytest.skip(f"no power is cut: {missing}")
    result = run_object_cuts(2, 1, calls=40)
    assert result.cuts == 2
    assert result.found > 0


CLIENT = """
import sys
from bcached.client import Cache
cache = Cache(sys.argv[1])
for number in range(50):
    cache.set(f"waited {number}", "v" * 5000 * (number % 5), wait=True)
print("ready", flush=True)
sys.stdin.read()
"""


def test_objects_whose_set_has_waited_survive_the_death_of_their_client() -> None:
    with DaemonProcess() as daemon:
        path = str(daemon.wait_until_ready().socket_path)
        command = [sys.executable, "-c", CLIENT, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            client.kill()
        with Cache(path) as cache:
            for number in range(50):
                assert cache[f"waited {number}"] == "v" * 5000 * (number % 5)
            cache.flush()
        daemon.end()
        daemon.start()
        daemon.wait_until_ready()
        with Cache(path) as cache:
            assert len(cache.get_many(f"waited {number}" for number in range(50))) == 50
