"""The set alive: the lock, the conditions, the tasks, and who waits for what.

Tasks decide by asking state/, do the I/O through store/, and know each other only through services.py.
lifetime.py opens a set, runs its tasks, and stops it.
"""
