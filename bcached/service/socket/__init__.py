# SPDX-License-Identifier: GPL-2.0-only
"""The client socket: its connections, which are opened, read, and closed. Knows no method."""
