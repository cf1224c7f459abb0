"""The socket's methods: each request as operations on the cache set."""
