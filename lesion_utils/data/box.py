"""The images in the box: all 1,279 of ISIC 2016 Part 3, small, in one archive beside this module.

It has the challenge's layout, with `manifest.csv` (native sizes and hashes) and `about.json` (what the copies were made
from and how, licence, citation). `data/make_box.py` makes it, byte for byte.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import digest_file

BOX = Path(__file__).with_name("isic2016_256px.zip")
SHA256 = "9fc4ff08a6f0ebfbc2c1664acef1f2e954fe69ac2a05383379659f4252906f29"


@cache
def open_box() -> zipfile.Path:
    """The archive as a folder to read from; its hash is checked once per process.

    Raises:
        DataError: the archive is missing or is not the one that this code was written with.
    """
    found = digest_file(BOX) if BOX.is_file() else "no file"
    if found != SHA256:
        raise DataError(
            f"the embedded images are not the project's: {found}",
            where=f"lesion_utils/data/{BOX.name}",
            expected=f"SHA-256 {SHA256}",
            do=f"restore it: git checkout -- lesion_utils/data/{BOX.name}",
        )
    return zipfile.Path(zipfile.ZipFile(BOX))
