"""Figures: each function draws one, from plain arrays and tables, and returns it.

A figure is shown by being the last value of a notebook's cell. Class order and colours are the same everywhere; widths
are those of one or two columns of a journal's page.

Everywhere `targets` are (N,) int, 0 benign and 1 malignant; `probs` probabilities of malignant, (N,) float in [0, 1],
by the name of the series where there are several, predicted malignant above 0.5; `images` (N, H, W, 3) uint8, RGB; and
`image_ids` N ids. Tables have the columns named, and where they are of series `name`, `model` and `regime`.

May import `provenance` and the packages below it.
Begin with `style`, for colours, sizes and how a figure is saved.
"""
