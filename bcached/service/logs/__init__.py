"""The log: what goes out, how much of it, and a stream that never blocks the loop."""
