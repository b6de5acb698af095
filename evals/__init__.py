"""Benchmarks: tasks, the sampling journal, statistics (imports trapo only)."""
