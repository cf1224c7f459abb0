"""The daemon: translation between the world and the set, limits, and lifetimes.

Configuration, the socket, metrics, logs and systemd's protocol live here, each in a file of its own;
daemon.py puts them together and is the only one that knows them all.
"""
