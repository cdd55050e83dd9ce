"""The contract: events, topics and their wire form. Imports only pydantic and the standard library."""
