#!/bin/sh
# Trains examples/tiny.pt from nothing: 16,000 generated pairs, five passes. How long it took: see examples/README.md.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/rsicrc-train synth runs/scenes --pairs 17000 --seed 1 --splits train=0.942,val=0.058 --workers 2
.venv/bin/rsicrc-train fit runs/scenes --output runs/tiny --recipe tiny
cp runs/tiny/best.pt examples/tiny.pt
