"""From scores to numbers with intervals: metrics, tests, calibration, tables, the literature, shortcuts.

Everywhere `targets` are (N,) labels, 0 benign and 1 malignant, both present; `probs` (N,) probabilities of malignant in
[0, 1]; `weights` (draws, N) from `intervals.draw_weights`, or (N,); `confidence` the coverage of intervals, such as
0.95; `predictions` a table from `predictions.add_ensembles`; `results` from `tables.tabulate_results`; `published` from
`literature.read_published`; `params` those of `comparison.yaml`. Docstrings name them only where there is more to say.

May import `data` and the rooms below it; no network is loaded here.
Begin with `predictions`, the file that training hands over; then `evaluate`, all metrics of one set of scores.
"""
