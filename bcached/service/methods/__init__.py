# SPDX-License-Identifier: GPL-2.0-only
"""The socket's methods: each request as operations on the cache set."""
