"""From scores to numbers with intervals: metrics, tests, calibration, tables, the literature, shortcuts.

May import `data` and the rooms below it; no network is loaded here.
Begin with `predictions`, the file that training hands over; then `evaluate`, all metrics of one set of scores.
"""
