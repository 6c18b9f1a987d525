"""``python -m kullback`` is the command line."""

from kullback.cli import main

main()
