"""Things to look at: a daemon to try, and a client session that explains itself."""
