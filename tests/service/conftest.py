# SPDX-License-Identifier: GPL-2.0-only
import asyncio
from collections.abc import Callable

import pytest
import uvloop

ON_BOTH_LOOPS = ("test_socket", "test_pipeline", "test_cache_service", "test_index")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What touches transports is tested on the loop of every day and on the one we fall back to."""
    if item.path.name.startswith(ON_BOTH_LOOPS):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
