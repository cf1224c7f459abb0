"""The daemon as a process, killed or cut off again and again: nothing that it promised may be lost."""
