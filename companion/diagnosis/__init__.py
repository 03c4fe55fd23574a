"""What backward() would do, and why it raised."""
