"""Virtual time, and every point at which a task is resumed."""
