#!/bin/sh
# Trains examples/tiny.pt from nothing: 24,000 generated pairs, five passes. How long it took: see examples/README.md.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/rsicrc-train synth runs/scenes --pairs 25000 --seed 1 --splits train=0.96,val=0.04 --workers 2
.venv/bin/rsicrc-train fit runs/scenes --output runs/tiny --recipe tiny
cp runs/tiny/best.pt examples/tiny.pt
