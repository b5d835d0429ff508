"""Image pairs on their way to the image encoder: decoding, tables of pairs, reading ahead."""
