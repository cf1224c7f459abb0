# SPDX-License-Identifier: MIT
"""The socket's protocol: frames, messages, interface definitions, and the gen map.

The only package that knows how requests and replies are encoded; the daemon and the client library see
structs. No async, no I/O and no clock in here.

messages   the parameters and results of each method of Allocator, one struct each
volume_messages, admin_messages   those of the methods on volumes, and otherwise of Admin and Monitor
interfaces   their names
methods    the structs of each method, by its full name
refusals   the precise error for a message that could not be decoded
codec      the daemon's half: requests from bytes and replies to bytes, a whole read at a time
client_codec   the client's half: requests to bytes and replies from bytes
framing    splits a stream of bytes into messages
gen_map    the file of gens that clients map read-only
io.bcached.*.varlink   the interfaces, as GetInterfaceDescription returns them
"""
