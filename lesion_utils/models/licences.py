"""Licences of pretrained weights, and what follows from them for a network that was trained from such weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """The terms of a weights file.

    Attributes:
        name: as people write it.
        code: as the hub's model cards have it, such as "bsd-3-clause"; "other" for what they have no code for.
        link: to its text; "" where it is a common one.
        follows: what holds for whatever is made from the weights, in a sentence; "" where no more than their notice.
        may_be_published: whether what is made from the weights may be given to anyone for any use.
    """

    name: str
    code: str
    link: str = ""
    follows: str = ""
    may_be_published: bool = True


#: The decoded "Permute, Quantize, and Fine-tune" ResNet50 (Martinez et al. 2021). Sections 2, 4 and 5 of the licence.
_UBER = Licence(
    "Uber Non-Commercial License",
    "other",
    "https://github.com/uber-research/permute-quantize-finetune/blob/main/LICENSE",
    "These weights, networks trained from them and their results are for non-commercial use only. Whoever shows a "
    "result says where the weights come from and names this licence; whoever passes the network on adds the licence's "
    "text, says what was changed and when, and grants no broader rights.",
    may_be_published=False,
)

#: VGG19 grown from VGG16 (Simonyan and Zisserman 2015) after it was retrained for edges (HED, Xie and Tu 2015).
_OXFORD = Licence(
    "Creative Commons Attribution 4.0",
    "cc-by-4.0",
    "https://creativecommons.org/licenses/by/4.0/",
    "Anyone who passes on these weights, or networks trained from them, names the authors of VGG16 (K. Simonyan and "
    "A. Zisserman, University of Oxford), links to this licence and says what was changed.",
)

#: By SHA-256: a file's name proves nothing.
KNOWN = {
    "575e685e942f2603fec27fb9a44d549d8ea924a4f46bc37fbd642f0d059d74c2": _UBER,
    "8c2eea60b3129ae83d297a43122e43416e4a0cf4f2bc045b2a4f659acd695a3c": _OXFORD,
    "e7bb7efb4f394f6aaf0ccc211e900196eebbc1efb6c45accc0f8a541f55e4997": Licence("Apache License 2.0", "apache-2.0"),
}


def find_licence(name: str, origin: str, sha256: str) -> Licence | None:
    """The licence of a weights file, as `WeightsSource` describes it; None where nobody here knows.

    A tag has the licence that timm states. A file that a person named is known by its content only.
    """
    if sha256 in KNOWN:
        return KNOWN[sha256]
    if origin == "file":
        return None
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    code = getattr(config, "license", None)
    if not code:
        return None
    follows = "For non-commercial use only, and so is what is made from them." if "-nc" in code else ""
    return Licence(code, code, follows=follows, may_be_published=not follows)
