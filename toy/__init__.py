"""Worlds small enough to understand (imports trapo only)."""
