"""Every derived event into the tables."""
