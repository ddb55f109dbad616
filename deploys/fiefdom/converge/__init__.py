"""What a host holds, how that differs from what it should hold, and the steps that change it."""
