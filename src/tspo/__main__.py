"""`python -m tspo`: the `tspo` command of this very interpreter."""

from tspo.cli import main

raise SystemExit(main())
