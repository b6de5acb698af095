"""Rows in, checked, as tokens."""
