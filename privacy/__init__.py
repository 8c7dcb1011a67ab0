"""What protects an institution's records, and what proves it."""
