"""The sub-commands of `rsicrc-run`, a module each."""
