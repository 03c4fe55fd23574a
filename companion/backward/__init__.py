"""One real backward pass: recorded, and stepped through."""
