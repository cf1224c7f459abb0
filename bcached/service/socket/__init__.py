# SPDX-License-Identifier: GPL-2.0-only
"""The client socket: connections, their requests and replies. Knows no method."""
