# SPDX-License-Identifier: GPL-2.0-only
"""The btree in memory. Knows no buckets and no sectors."""
