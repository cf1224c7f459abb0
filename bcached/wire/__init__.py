"""The socket's bytes, and nothing else: frames, messages, the interfaces' own words, the gen map.

The only room that knows how requests and replies are encoded; the daemon and the client library see
structs. No async, no I/O, no clock in here.

messages   every request and reply as a struct, and the codec
methods    which method is which struct, by its full name
refusals   a message that did not decode, turned into the precise error that says why
framing    whole messages out of a stream of bytes
gen_map    the file of gens that clients map read-only
io.bcached.*.varlink   the interfaces, as GetInterfaceDescription returns them
"""
