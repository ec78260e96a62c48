"""What each notebook calls: one module for each, and the handle on the study that they share.

May import `training` and the rooms below it; nothing of the pages, so that an edit there reruns no notebook.
Begin with `study`, then the module of the notebook's own name.
"""
