"""A trained network leaves the house: as a folder that timm loads, or scoring photographs.

May import `report` and the rooms below it.
Begin with `runs`, which network is meant; then `export`, then `predict`.
"""
