# SPDX-License-Identifier: GPL-2.0-only
"""Requests for sectors, and the holders that have them."""
