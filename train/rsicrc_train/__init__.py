"""PyTorch side of rsicrc: the RSICRC model, its losses, data and training loop, and generated scenes to train it on."""
