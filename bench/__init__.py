# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: ratios against peers that run beside us, in one run on one machine."""
