"""Where things lie: the project, its command, and the benchmark files that are never committed."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
