"""How good captions, text search and change decisions are; all from plain strings and numpy arrays, no model needed."""
