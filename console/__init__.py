"""The pages and their HTTP API."""
