# SPDX-License-Identifier: GPL-2.0-only
"""Clients, and daemons for them to talk to."""
