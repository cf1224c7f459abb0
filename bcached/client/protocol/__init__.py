# SPDX-License-Identifier: MIT
"""The client's protocol without I/O: calls to bytes, replies to results, and plans of several steps."""
