"""What one host should hold, as values: one pure module per concern."""
