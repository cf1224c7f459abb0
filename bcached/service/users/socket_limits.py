# SPDX-License-Identifier: GPL-2.0-only
"""The limits of the socket's clients, as the configuration gives them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """What one client, and all of them together, may use."""

    connections: int = 1024
    message_bytes: int = 1 << 20
    buffer_bytes: int = 64 << 20
    buffer_bytes_without_role: int = 4 << 20  # of all peers that may do nothing
    user_percent: int = 50  # of connections and buffers that one user keeps while another one lacks them
