"""Images on this machine, and their way to a host."""
