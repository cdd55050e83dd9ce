"""Alembic's environment and versions, packed into the wheel; `engine.migrate` runs them."""
