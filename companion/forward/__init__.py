"""Watching a forward pass: what ran, where its graph was cut."""
