"""The Makefile's side: what runs, why, and how it is started; what is missing; what can be removed.

May import `report` and the packages below it; only `extras` and the command line import it.
Begin with `execute`, one step from start to end; `graph`, whether it has to run.
"""
