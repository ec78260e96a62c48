"""Networks: backbones by name, their weights, the device they run on, what they predict and where they look.

May import `evaluation`, `data`, `config` and `core`.
Begin with `networks`, any timm backbone with one logit; then `inference`.
"""
