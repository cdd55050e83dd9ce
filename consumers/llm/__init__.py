"""The response manual: retrieval, prompt, checked report."""
