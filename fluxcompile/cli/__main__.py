"""`python -m fluxcompile.cli`."""

from fluxcompile.cli import main

main()
