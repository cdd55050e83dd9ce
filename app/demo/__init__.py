"""`lineside demo`: everything on one machine with sample data, through the real interfaces."""
