"""From the challenge's files to a table, a split and decoded images, all of it checked.

May import `core`, `config` and `provenance`.
Begin with `prepare`, the first step of every study.
"""
