# SPDX-License-Identifier: GPL-2.0-only
"""A whole set read and judged by one list of rules: what an opening refuses and a check reports."""
