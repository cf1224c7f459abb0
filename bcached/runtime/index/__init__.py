# SPDX-License-Identifier: GPL-2.0-only
"""Requests on the keys of a set: committed, looked up, made clean, invalidated."""
