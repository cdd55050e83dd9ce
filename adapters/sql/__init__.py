"""Tables through SQLAlchemy: SQLite by default, PostgreSQL in production."""
