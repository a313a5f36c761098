"""python -m codepose."""

from codepose.cli.main import main

raise SystemExit(main())
