"""Where things lie: the project, its command, and the benchmark files that are never committed."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TRAPO = Path(sys.executable).with_name("trapo")
DATA = Path(os.environ.get("TRAPO_TEST_DATA", ROOT.parent / "shared" / "data"))
