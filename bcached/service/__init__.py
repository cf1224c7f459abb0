# SPDX-License-Identifier: GPL-2.0-only
"""The daemon: what serves the cache set, its limits, and its startup and shutdown.

Configuration, the socket, metrics, logs and systemd's protocol are here, each in files of its own;
daemon.py puts them together and is the only module that imports all of them.
"""
