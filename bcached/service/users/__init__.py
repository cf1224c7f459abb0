# SPDX-License-Identifier: GPL-2.0-only
"""The users of the socket: who they are, which methods they may call, and how they share the daemon."""
