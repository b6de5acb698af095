"""`python -m trapo_analysis.study`."""

import sys

from .command import main

sys.exit(main())
