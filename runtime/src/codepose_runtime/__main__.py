"""``python -m codepose_runtime``."""

import sys

from codepose_runtime.cli import main

sys.exit(main())
