"""A Graph as a picture."""
