# SPDX-License-Identifier: GPL-2.0-only
import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A client does not choose the loop it is used on."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
