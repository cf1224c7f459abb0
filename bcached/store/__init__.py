# SPDX-License-Identifier: GPL-2.0-only
"""Metadata on the device: how a set is made, read, opened and kept durable.

Combines the format, the devices and the tables in memory. Does the I/O; the decisions are made in `state/`.
"""
