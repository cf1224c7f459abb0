"""bcachectl: arguments in, one call of the client or the store, a table or JSON out. One file a verb."""
