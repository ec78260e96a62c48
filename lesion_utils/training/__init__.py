"""Training: what a network is shown, its loss, its optimiser, the loop, and choosing settings without the test images.

May import `models`, `evaluation` and the rooms below them.
Begin with `fit`, which trains every regime and seed; then `run`, one run epoch by epoch, and `loop`, an epoch.
"""
