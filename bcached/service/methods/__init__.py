"""The socket's methods: what each request means on a cache set."""
