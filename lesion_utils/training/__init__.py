"""Training: inputs and their augmentation, loss, optimizer, the loop, and classical classifiers on frozen features.

May import `models`, `evaluation`, `data`, `config` and `core`.
Begin with `train`, which trains every regime and seed, epoch by epoch; then `loop`, the steps of one epoch.
"""
