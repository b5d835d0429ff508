"""Input of image pairs: decoding of images, tables of pairs, prefetching and upload."""
