"""Any stretch of a topic through a chosen stage version, beside what is live."""
