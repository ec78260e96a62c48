"""From scores to numbers with intervals: metrics, tests, calibration, tables, the literature, shortcuts.

Everywhere `targets` are (N,) labels, 0 benign and 1 malignant, both present; `probs` (N,) probabilities of malignant in
[0, 1]; `logits` (N,) finite log odds; `weights` (draws, N) from `intervals.draw_weights`, or (N,), 1 by default;
`confidence` the coverage of intervals, such as 0.95; `predictions` a table from `predictions.add_ensembles`; `results`
from `tables.tabulate_results`; `order` from `ranking.rank_on_validation`; `published` from `literature.read_published`;
`folds` the parts of the training images that were held out in turn; `numbered` whether ids are the challenge's, whose
numbers mean something; `params` those of `comparison.yaml`. Docstrings name them only where there is more to say.

May import `data`, `config` and `core`; no network is loaded here.
Begin with `predictions`, the file that training hands over; then `evaluate`, all metrics of one set of scores.
"""
