"""ResNet50 and VGG19 on ISIC 2016 Part 3, in rooms; each room says in its docstring what lives there.

Imports go one way, from the first to the last: cli, pipeline, notebooks, release, report, training, figures, models,
evaluation, data, provenance, config, core.
"""
