"""The contract: events, topics and their wire form; imports pydantic and nothing else."""
