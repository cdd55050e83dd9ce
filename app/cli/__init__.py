"""The `lineside` command."""
