# SPDX-License-Identifier: GPL-2.0-only
"""Workloads that play out one set's life, and the ledgers of what it promised."""
