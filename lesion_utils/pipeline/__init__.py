"""The Makefile's side: what runs, why, and how it is started; what is missing; what can be removed.

May import every room; nothing imports it but `cli`.
Begin with `execute`, one step from start to end; `graph`, whether it has to run.
"""
