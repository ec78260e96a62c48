"""ResNet50 and VGG19 on ISIC 2016 Part 3; the docstring of each package says what is in it.

Imports go one way, from the first to the last: cli, extras, pipeline, report, notebooks, figures, provenance, training,
models, evaluation, data, config, core. The kernel, which needs nothing else of the package, is training, models,
evaluation, data, config and core.

## From a photograph to a number

1. `lesion_utils.data.images.decode_square` makes a square of a photograph; `lesion_utils.data.prepare.prepare_study`
   does so for every image, once, finds duplicates and splits the training images.
2. `lesion_utils.training.inputs.plan_epoch` says which images make which batch of an epoch, and
   `lesion_utils.training.augment.Augmenter` changes them, each by (seed, epoch, image) alone.
3. `lesion_utils.models.networks.build_network` makes a backbone with one logit,
   `lesion_utils.training.loop.train_epoch` trains it, and `lesion_utils.training.train.train_network`
   does so in every regime, with every seed.
4. `lesion_utils.models.inference.Scorer` scores the images, and
   `lesion_utils.evaluation.predictions.write_predictions` hands the scores over as a CSV file.
5. `lesion_utils.evaluation.evaluate.evaluate_with_intervals` makes metrics of them,
   `lesion_utils.evaluation.tables.tabulate_results` a table, `lesion_utils.notebooks.comparison` what 05 shows.
6. `lesion_utils.provenance.record` writes down what each step was made from, and `lesion_utils.report.index` the page.
"""

__version__ = "0.2.0"
