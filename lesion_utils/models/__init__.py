"""Networks: backbones by name, their weights, the device they run on, what they predict and where they look.

May import `data` and the rooms below it, and of `evaluation` nothing that needs a report.
Begin with `networks`, any timm backbone with one logit; then `inference`.
"""
