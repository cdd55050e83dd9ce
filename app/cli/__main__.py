"""`python -m app.cli` is `lineside`: children are started this way."""

from app.cli import main

main()
