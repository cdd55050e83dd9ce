"""Language models behind servers, and the excerpt when there is none."""
