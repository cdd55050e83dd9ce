"""The stages; none knows another."""
