"""What of a run is kept and shown."""
