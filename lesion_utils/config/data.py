"""The schema of `data.yaml`: which images, how they are stored and split, and external test sets.

Only keys about images of one's own have defaults here; every other value is in the file, with its reason beside it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lesion_utils.config.section import Pixels, Section, Seed

#: What records have instead of a folder or file of this machine: they are published, and a path can name people.
UNRECORDED = "not recorded"
#: What a column of a label file may be.
Column = Literal["image", "label", "patient", "lesion", "site", "skin_type", "subset"]
#: A class as a label file writes it.
Class = str | Annotated[int, Field(ge=0, le=1_000_000)] | bool


class LabelRules(Section):
    """How a label file is read, where its columns and classes have names of their own."""

    columns: dict[Column, Annotated[str, Field(min_length=1)]] = Field(
        default={},
        description="the label file's names of image, label, patient, lesion, site, skin_type and subset, where they "
        "are not found by themselves, such as {image: img_id, label: diagnostic}",
    )
    malignant: list[Class] = Field(
        default=[],
        description="the malignant classes, where labels are diagnoses or one column per class, such as [mel, bcc]",
    )
    benign: list[Class] = Field(
        default=[], description="the benign classes; any other is refused. If left out, all others are benign"
    )

    @model_validator(mode="after")
    def _classes_are_told_apart(self) -> Self:
        if both := {str(label).lower() for label in self.malignant} & {str(label).lower() for label in self.benign}:
            raise ValueError(f"benign: {min(both)!r} is in malignant as well")
        if self.benign and not self.malignant:
            raise ValueError("malignant: with benign it says which classes are malignant")
        return self


class External(LabelRules):
    """An external test set: read from its own folder, scored after training, never used for training or selection."""

    images: str = Field(min_length=1, description="its folder of images")
    labels: str = Field(
        min_length=1,
        description="its label file (CSV or .xlsx), or `folders` for folders benign/ and malignant/; optional columns "
        "site, skin_type",
    )
    licence: str | None = Field(default=None, min_length=1, description="under which its images may be passed on")
    publish: bool = Field(
        default=False,
        description="whether its images keep their names in the report, and `make publish` may copy their scores; "
        "wants a licence",
    )

    @model_validator(mode="after")
    def _what_is_published_has_a_licence(self) -> Self:
        if self.publish and self.licence is None:
            raise ValueError("publish: nothing of a set is published without the licence that allows it; name it")
        return self


class Data(LabelRules):
    """data.yaml: which images, how they are stored and how they are split."""

    title: str = Field(min_length=1, description="the study's name on its pages")
    remarks: list[Annotated[str, Field(min_length=1)]] = Field(
        description="what a reader must know before any number, shown on every page"
    )
    source: Literal["embedded", "isic2016", "folder"] = Field(
        description="the challenge's images at 256 px, which come with the project; its own files; or `images` and "
        "`labels` of your own"
    )
    images: str | None = Field(default=None, min_length=1, description="with source: folder, the images' folder")
    labels: str | None = Field(
        default=None,
        min_length=1,
        description="with source: folder, a label file (CSV or .xlsx) with the columns image and label; optional "
        "patient, lesion, site, skin_type, and subset (train, val, test); or `folders`: the images are in folders "
        "named after their classes, also below train/, val/ and test/",
    )
    test_fraction: float = Field(
        default=0.2,
        ge=0.05,
        le=0.5,
        description="with source: folder, share of the images set apart as test images where `labels` has no column "
        "subset; 0.2 if left out",
    )
    publish_photographs: bool = Field(
        description="whether `make publish` may copy photographs; ISIC 2016 is in the public domain (CC0)"
    )
    publish_ids: bool = Field(
        default=False,
        description="with source: folder, whether images keep their file names in the report; false: they are called "
        "image_0001 and so on, and only data/images.csv of the report, which is not published, has their names",
    )
    publish_scores: bool = Field(
        default=False,
        description="with source: folder, whether `make publish` may copy the scores of single images",
    )
    seed: Seed = Field(description="seed of the split")
    stored_size: Pixels = Field(description="side of the decoded images in the cache, px")
    aspect: Literal["squash", "crop", "pad"] = Field(description="how a rectangular photograph becomes a square")
    folds: int = Field(ge=1, le=20, description="parts that are held out in turn; 1: one part, the validation images")
    validation_fraction: float | None = Field(
        ge=0.05, le=0.5, description="share of the training images held out to choose on; null with several folds"
    )
    split: Literal["grouped", "starting_project"] = Field(description="how validation images are chosen")
    drop_leaks: bool = Field(description="leave training images out that duplicate a test image")
    external: dict[str, External] = Field(default={}, description="external test sets, by their names")

    @model_validator(mode="after")
    def _each_image_is_held_out_once(self) -> Self:
        if self.folds == 1 and self.validation_fraction is None:
            raise ValueError("validation_fraction: with folds: 1 it says how many images are held out, such as 0.2")
        if self.folds > 1 and self.validation_fraction is not None:
            raise ValueError(f"validation_fraction: {self.folds} folds hold out every image once; set it to null")
        if self.folds > 1 and self.split == "starting_project":
            raise ValueError("folds: the starting project's split has one; set split to grouped")
        if self.split == "starting_project" and self.validation_fraction != 0.2:
            raise ValueError("validation_fraction: the starting project's split holds out 0.2")
        return self

    @model_validator(mode="after")
    def _own_images_are_named(self) -> Self:
        for key, value in (("images", self.images), ("labels", self.labels)):
            if self.source == "folder" and value is None:
                raise ValueError(f"{key}: with source: folder it says where they are")
            if self.source != "folder" and value is not None:
                raise ValueError(f"{key}: read with source: folder only; set source to folder, or take it out")
        if self.source != "folder" and (self.columns or self.malignant):
            raise ValueError("columns: read with source: folder only; set source to folder, or take it out")
        if odd := [name for name in self.external if not re.fullmatch(r"\w[\w .+-]*", name)]:
            raise ValueError(f"external: {odd[0]!r} is no name of letters, digits, spaces and . _ + -")
        if self.source == "folder" and self.split == "starting_project":
            raise ValueError("split: the starting project's knows no images of your own; set it to grouped")
        return self

    @property
    def places(self) -> list[str]:
        """Folders and files of this machine, as they are written: of own images, and of external sets."""
        named = [self.images, self.labels]
        named += [path for place in self.external.values() for path in (place.images, place.labels)]
        return [path for path in named if path]

    def hide_places(self) -> Data:
        """The same without folders and files of this machine, for everything that is kept and sent on."""
        hidden = {"images": UNRECORDED, "labels": UNRECORDED}
        own = hidden if self.source == "folder" else {}
        return self.model_copy(
            update={**own, "external": {name: place.model_copy(update=hidden) for name, place in self.external.items()}}
        )

    @property
    def hides_places(self) -> bool:
        """Whether these are parameters from a record, which say of no image where it is."""
        return UNRECORDED in (self.images, *(place.images for place in self.external.values()))

    @property
    def may_publish_scores(self) -> bool:
        """Whether a published copy may hold scores of single images; of the public challenge it always may."""
        return self.is_challenge or self.publish_scores

    @property
    def is_challenge(self) -> bool:
        """Whether the images are those of ISIC 2016 Part 3, whose ids, labels and published results are known."""
        return self.source != "folder"
