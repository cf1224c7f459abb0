# SPDX-License-Identifier: GPL-2.0-only
"""Linux bcache's own order of work (alloc.c of v4.14), small enough to run every interleaving by hand.

The kernel can lock up near exhaustion in two ways that bcached must not have. To know that our tests
would notice them, they are first reproduced here, on a toy that keeps alloc.c's order of steps, list
sizes and conditions, and leaves out all that has no part in it (discards, sectors, priorities).
"""
