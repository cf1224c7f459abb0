# SPDX-License-Identifier: GPL-2.0-only
"""Exclusive use of a device: locks, leases, the kernel's own claims, and waiting for them."""
