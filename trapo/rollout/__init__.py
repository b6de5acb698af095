"""Who samples what, and when."""
