"""Where each cell stands, and where its numbers come from."""
