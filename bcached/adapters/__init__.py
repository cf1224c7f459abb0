# SPDX-License-Identifier: MIT
"""bcached.client.Cache as a backend of the cache libraries of others; each module imports its library.

dogpile, dogpile_mutex     a backend of dogpile.cache
django                     a backend of Django's cache
shared_caches              the one Cache that all backends of a process use for a volume
"""
