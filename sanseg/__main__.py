"""`python -m sanseg` is `sanseg`."""

from sanseg.cli import main

main()
