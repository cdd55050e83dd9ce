"""The live feed to operators."""
