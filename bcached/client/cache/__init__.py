# SPDX-License-Identifier: MIT
"""A cache of objects by name, on one volume of a set, for any number of processes.

names, object_format, serializers, carving     decisions, without a socket or a file
known_object   all that a hit needs             recall         a hit, without a request
commits        keys on their way to the index   session        what ends with a connection
reading        an object from its keys          objects        what the verbs do
new_object     objects as verbs have them       conditional_store   adds, and changes of values
cache          the verbs                        async_cache    the verbs for asyncio
shared_hops    an event loop's stores, in one thread
"""
