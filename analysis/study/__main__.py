"""`python -m trapo_analysis.study`."""

import sys

from .runner import main

sys.exit(main())
