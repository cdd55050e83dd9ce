"""Sample data: real solar cells, two drawn products, and manuals for all three."""
