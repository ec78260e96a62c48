"""What each notebook calls: one module for each, and the handle on the study that they share.

Everywhere `data` are the prepared images; `result` is what training a network returned, `folder` that of all its runs,
each in one of its own; `found` are the tables of 05 (`statements.Findings`). Of tables, docstrings say what those of
`evaluation` say.

May import `figures` and the packages below it; nothing of the pages, so that an edit there reruns no notebook.
Begin with `study`, then the module of the notebook's own name.
"""
