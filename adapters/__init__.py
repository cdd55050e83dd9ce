"""Everything with a socket or a disk."""
