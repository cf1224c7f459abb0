# SPDX-License-Identifier: MIT
"""A cache of objects by name, on one volume of a set, for any number of processes.

names, object_format, serializers, carving     decisions, without a socket or a file
commits        keys on their way to the index   session        what ends with a connection
reading        an object from its keys          cache          the verbs
"""
