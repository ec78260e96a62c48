"""Training: what a network is shown, its loss, its optimiser, the loop, and choosing settings without the test images.

May import `models`, `evaluation`, `data`, `config` and `core`.
Begin with `train`, which trains every regime and seed, epoch by epoch; then `loop`, the steps of one epoch.
"""
