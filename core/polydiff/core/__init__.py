"""polydiff's shared core."""
