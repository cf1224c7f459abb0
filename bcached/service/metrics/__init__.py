# SPDX-License-Identifier: GPL-2.0-only
"""The metrics and the HTTP server that Prometheus scrapes."""
