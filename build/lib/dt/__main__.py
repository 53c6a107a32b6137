"""`python -m dt` is the command `dt`."""

from dt.commands import main

main()
