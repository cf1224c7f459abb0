# SPDX-License-Identifier: GPL-2.0-only
"""Many clients at once, from seeds: whatever they do, no sector has two owners, nothing leaks, nobody waits
for what is there; and what was acknowledged is found again. BCACHED_SOAK_S=600 goes on for so long."""

import os
import time
from pathlib import Path
from random import Random

import pytest

from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from instruments.devices.latent_device import LatentDevice
from instruments.samples.living_set import fresh_members, reopened, set_options
from instruments.stories.crowd import Crowd, Tally
from instruments.time.virtual_time import run_in_virtual_time

SOAK_S = float(os.environ.get("BCACHED_SOAK_S", "0"))
SOAK_SEED = int(os.environ.get("BCACHED_SOAK_SEED", "0"))
SHAPES = [
    # bucket bytes, buckets of each member
    (64 << 10, [1024]),
    (4 << 10, [2048]),
    (64 << 10, [600, 700]),
    (512 << 10, [513]),
    (4 << 10, [1500, 4096, 1500]),
    (64 << 10, [513, 513, 900]),
]


async def live(seed: int, folder: Path, clients: int, steps: int) -> Tally:
    """One life of a set with a crowd on it, its stop, and its next life."""
    random = Random(seed)
    bucket_bytes, counts = SHAPES[seed % len(SHAPES)]
    policy = random.choice(list(Replacement))
    devices = await fresh_members(counts, bucket_bytes, policy, discard=random.random() < 0.5)
    options = set_options(folder, seed=seed)
    latent = [LatentDevice(device, random, random.choice([0, 0.0001, 0.002, 0.02])) for device in devices]
    async with running(latent, options) as cache_set:
        # Often there is more wanted than there is.
        capacity = sum(counts) * bucket_bytes // (cache_set.geometry.block_sectors * 512)
        crowd = Crowd(cache_set, seed, keys_max=random.choice([20, 100, max(capacity // clients // 4, 20)]))
        await crowd.run(clients, steps)
        volumes = cache_set.volumes.all()
    async with running(reopened(devices), options) as cache_set:
        assert cache_set.volumes.all() == volumes
        assert cache_set.verify() == []
        again = Crowd(cache_set, seed + 1)
        await again.run(3, 30)
    return crowd.tally


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_a_crowd_from_a_seed(seed: int, tmp_path: Path) -> None:
    tally = run_in_virtual_time(live(seed, tmp_path, clients=12, steps=60))
    assert tally.done["carve"] > 50


@pytest.mark.parametrize("seed", [0, 5])
def test_64_clients_some_of_whom_die_at_random_moments(seed: int, tmp_path: Path) -> None:
    """No sector has two owners, all lie inside data buckets, and nothing is left when the last has gone."""
    tally = run_in_virtual_time(live(seed, tmp_path, clients=64, steps=15))
    assert tally.done["die"] > 0
    assert tally.longest_wait_s > 0


if SOAK_S:

    @pytest.mark.timeout(0)
    def test_a_soak(tmp_path: Path) -> None:
        end = time.monotonic() + SOAK_S
        seed = SOAK_SEED
        while time.monotonic() < end:
            folder = tmp_path / str(seed)
            folder.mkdir()
            clients = Random(seed).choice([1, 4, 16, 64])
            print(f"seed {seed}: {clients} clients", flush=True)
            tally = run_in_virtual_time(live(seed, folder, clients, steps=6000 // clients))
            print(f"  {tally}", flush=True)
            seed += 1
