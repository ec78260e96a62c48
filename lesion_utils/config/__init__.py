"""The YAML files of a study: their schema, reading them with errors that name the line, and their reference.

May import `core`, and no numpy, pandas or torch.
Begin with `schema` and `data`, where every parameter has its meaning, unit and range.
"""
