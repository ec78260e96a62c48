"""A trained network leaves the house: as a folder that timm loads, or scoring photographs.

May import every other package; only the command line imports it.
Begin with `runs`, which network is meant; then `export`, then `predict`.
"""
