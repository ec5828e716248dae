"""`python -m scaledq` is `scaledq`; torchrun needs it."""

from scaledq.cli import main

main()
