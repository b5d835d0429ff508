"""The command line. Nothing in rsicrc imports this package."""
