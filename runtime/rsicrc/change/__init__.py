"""Decision between changed and unchanged pairs."""
