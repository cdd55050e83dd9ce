"""Similar past cases: an encoder and an exact index."""
