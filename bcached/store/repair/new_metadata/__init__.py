# SPDX-License-Identifier: GPL-2.0-only
"""New metadata of a set: the keys that are kept, and buckets, index, uuid table and journal for them."""
