"""Engines: what draws samples from a policy."""
