# SPDX-License-Identifier: GPL-2.0-only
"""Another number of buckets for a member of a set that is not in use."""
