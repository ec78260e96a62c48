"""What each notebook calls: one module for each, and the handle on the study that they share.

May import every room but `pipeline`.
Begin with `study`, then the module of the notebook's own name.
"""
