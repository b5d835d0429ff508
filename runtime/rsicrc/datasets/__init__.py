"""Known data sets of captioned image pairs and their readers."""
