"""The configuration: read, checked, translated into options, reloaded."""
