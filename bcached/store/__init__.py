"""Metadata on the device: how a set is made, read, opened and kept durable.

Brings together the format, the devices and what the set knows in memory. Asynchronous, short, straight;
every decision is made one room below.
"""
