# SPDX-License-Identifier: GPL-2.0-only
"""Devices that record, fail or delay what passes through them."""
