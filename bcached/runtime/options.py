"""What can be chosen about a running set, as plain numbers; the service reads them from its configuration."""

from dataclasses import dataclass


@dataclass(slots=True)
class SetOptions:
    """Choices for one set; those of gc and limits may change while it runs.

    synchronous false: nothing outlives the daemon. verify: check every invariant after every step.
    gen_directory holds the mapped gens, state_directory the lease files; gid is the group that may read them.
    """

    gen_directory: str
    state_directory: str
    gid: int | None = None
    synchronous: bool = True
    verify: bool = False
    gc_slice_s: float = 0.001
    moving_gc: bool = True
    waiters: int = 4096
    reservations_per_connection: int = 65536
    pins_per_connection: int = 65536
    restart_grace_s: float = 10.0
    journal_delay_s: float = 0.1  # that keys nobody waits for are kept back, to share an entry
    index_bytes: int = 256 << 20  # of leaves in memory, about
    seed: int | None = None  # makes the random policy repeatable
