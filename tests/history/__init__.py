# SPDX-License-Identifier: GPL-2.0-only
"""Histories of many processes on one cache, with kills, and the rules that every one of them must keep."""
