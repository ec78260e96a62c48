"""From the challenge's files to a table, a split and decoded images, all of it checked.

May import `core` and `config`.
Begin with `prepare`, the first step of every study.
"""
