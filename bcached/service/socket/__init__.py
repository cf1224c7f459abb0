"""The client socket: connections, their requests and replies. Knows no method."""
