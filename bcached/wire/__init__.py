"""The socket's bytes, and nothing else: frames, messages, the interfaces' own words, the gen map.

The only room that knows how requests and replies are encoded; the daemon and the client library see
structs. No async, no I/O, no clock in here.

messages   what each method takes and gives, one struct each
interfaces   their names
methods    which method is which struct, by its full name
refusals   a message that did not decode, turned into the precise error that says why
codec      requests and replies to bytes and back, a whole read at a time: the daemon's half
client_codec   the client's half: questions to bytes, answers back
framing    whole messages out of a stream of bytes
gen_map    the file of gens that clients map read-only
io.bcached.*.varlink   the interfaces, as GetInterfaceDescription returns them
"""
