# SPDX-License-Identifier: GPL-2.0-only
"""Results and errors as the replies that are sent, none of which is longer than the limit."""

import msgspec

from bcached.errors import LimitExceeded, RequestError
from bcached.service.requests.method import Long
from bcached.service.requests.request_counts import RequestCounts
from bcached.wire.codec import Refusal, Reply, encode_replies, encode_reply
from bcached.wire.messages import REPLY_BYTES_MAX, Results
from bcached.wire.methods import ALLOCATOR, METHODS

INTERFACE_OF = {method.request: method.interface for method in METHODS.values()}


class Replies:
    """Replies to requests, each given by its class; errors are counted."""

    def __init__(self, counts: RequestCounts) -> None:
        self._counts = counts

    def refusal(self, kind: type, error: RequestError) -> Refusal:
        """Returns the error under the name of the interface that was called."""
        name = error.NAME
        interface, _, own_name = name.rpartition(".")
        self._counts.count_error(kind, own_name)
        if interface == ALLOCATOR:
            name = f"{INTERFACE_OF.get(kind, ALLOCATOR)}.{own_name}"
        return Refusal(name, error.fields)

    def encoded(self, kind: type, results: Results | Long | Refusal) -> msgspec.Raw:
        """Returns the encoded reply, or the refusal if it is too long to be sent."""
        reply = encode_reply(_reply_of(results))
        if len(reply) < REPLY_BYTES_MAX:
            return reply
        return encode_reply(self._too_long(kind, len(reply)))

    def message(self, kind: type, results: Results | Long | Refusal) -> bytes:
        """Returns what `encoded` does, with its NUL."""
        message = encode_replies([_reply_of(results)])
        if len(message) <= REPLY_BYTES_MAX:
            return message
        return encode_replies([self._too_long(kind, len(message) - 1)])

    def _too_long(self, kind: type, length: int) -> Refusal:
        return self.refusal(kind, LimitExceeded("reply_bytes", length))


def _reply_of(results: Results | Long | Refusal) -> Reply | Refusal:
    if isinstance(results, Refusal):
        return results
    return Reply(results.results if isinstance(results, Long) else results)
