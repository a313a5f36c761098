"""python -m codepose."""

from codepose.apps.cli import main

raise SystemExit(main())
