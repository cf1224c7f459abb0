"""What ended the daemon, told once: the world's errors in a line each, our own with all there is to know."""

from collections.abc import Iterator

from bcached.errors import BcachedError
from bcached.service.log import get_logger
from bcached.service.notify import Notifier

log = get_logger(__name__)


def tell(error: BaseException) -> None:
    """Log it, and let the service manager know."""
    notifier = Notifier()
    for leaf in leaves(error):
        if isinstance(leaf, BcachedError):
            log.critical(str(leaf))
            notifier.failed(str(leaf))
        else:
            log.critical("a bug in bcached", exc_info=leaf)
            notifier.failed(f"a bug in bcached: {leaf!r}")
    notifier.close()


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What is inside groups of errors, of groups too."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
