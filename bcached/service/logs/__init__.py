# SPDX-License-Identifier: GPL-2.0-only
"""The log: its format, its rate limits, and a stream that never blocks the loop."""
