"""`python -m linnet`, the same as `linnet`."""

from linnet.cli import main

main()
