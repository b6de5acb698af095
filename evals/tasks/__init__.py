"""Benchmark definitions, one YAML per task."""
