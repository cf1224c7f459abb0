# SPDX-License-Identifier: GPL-2.0-only
"""Sectors for clients, cut from open buckets, and the reservations that hold them."""
