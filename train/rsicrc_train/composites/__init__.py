"""Image pairs composed from single-date aerial photographs, with captions and exact masks of the change.

`compose_pair` composes one pair; `rsicrc-train synth --photos` writes a data set of them. Photographs are divided into
splits before pairs are composed, so that no photograph occurs in two splits.
"""
