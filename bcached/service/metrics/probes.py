# SPDX-License-Identifier: GPL-2.0-only
"""The pages beside the metrics: what is here, whether the daemon works, and whether it serves."""

from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from bcached import __version__

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
LANDING = f"""<!DOCTYPE html>
<html lang="en"><head><title>bcached</title></head><body>
<h1>bcached</h1><p>Version {__version__}</p>
<ul>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/-/healthy">Whether the daemon works</a></li>
<li><a href="/-/ready">Whether it serves requests</a></li>
</ul>
</body></html>
"""

Reason = Callable[[], str | None]  # returns None if all is well


class Page(NamedTuple):
    """A response."""

    status: HTTPStatus
    kind: str
    body: bytes


class Probes:
    """The pages; unhealthy and unready return the reason why the daemon does not work, or does not serve."""

    def __init__(self, unhealthy: Reason = lambda: None, unready: Reason = lambda: None) -> None:
        self._reasons = {"/-/healthy": (unhealthy, "works"), "/-/ready": (unready, "serves")}

    def page(self, path: str) -> Page:
        """Returns the page at a path of PROBES."""
        if path not in self._reasons:
            return Page(HTTPStatus.OK, HTML, LANDING.encode())
        reason, what = self._reasons[path]
        found = reason()
        if found is None:
            return Page(HTTPStatus.OK, TEXT, f"bcached {what}\n".encode())
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{found}\n".encode())
