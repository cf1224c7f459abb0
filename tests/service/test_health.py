# SPDX-License-Identifier: GPL-2.0-only
"""What the probes of the metrics port say of a set."""

from pathlib import Path

from bcached.errors import DeviceFailed, ShuttingDown
from bcached.runtime.cache_set import STEP_SECONDS_MAX
from bcached.runtime.lifetime import running
from bcached.service.health import probes_of, unhealthy, unready
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_set_that_stops_is_healthy_and_not_ready(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        assert (unhealthy(cache_set), unready(cache_set)) == (None, None)
        assert probes_of(cache_set).page("/-/ready").body == b"bcached serves\n"
        cache_set.shared.stop.refuse(ShuttingDown())
        assert (unhealthy(cache_set), unready(cache_set)) == (None, "the daemon is stopping")


@in_virtual_time
async def test_a_set_whose_device_failed_is_not_healthy(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        cache_set.shared.stop.refuse(DeviceFailed("no more"))
        assert unhealthy(cache_set) == unready(cache_set) == "device failed: no more"
        assert probes_of(cache_set).page("/-/healthy").status == 503


@in_virtual_time
async def test_a_task_without_progress_is_not_healthy(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        steps = cache_set.shared.steps
        steps._busy_since["hung"] = cache_set.shared.clock() - STEP_SECONDS_MAX - 1
        assert unhealthy(cache_set) == f"a task has made no progress for {STEP_SECONDS_MAX + 1:.0f} s"
        del steps._busy_since["hung"]
        assert unhealthy(cache_set) is None
