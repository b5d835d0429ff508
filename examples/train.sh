#!/bin/sh
# Train examples/tiny.pt from random weights on 24,000 generated pairs for five epochs; for the time see examples/README.md.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/rsicrc-train synth runs/scenes --pairs 25000 --seed 1 --splits train=0.96,val=0.04 --workers 2
.venv/bin/rsicrc-train fit runs/scenes --output runs/tiny --recipe example
cp runs/tiny/best.pt examples/tiny.pt
