"""Several masks of one image, such as BUSI's of images with several lesions, as one."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from ..columns import DataError
from ..volumes.kinds import is_volume
from .decoding import read_stored
from .reading import counts_of

_WHITE = 255


def united_row(rows: list[dict]) -> dict:
    """Unite binary masks of one image: a pixel is foreground where it is in any of them.

    :param rows: ``{"bytes": None, "path": ...}`` of each mask.
    :return: a PNG file of 0 and 255, under the first one's path.
    :raises DataError: if one of them is not binary, or sizes differ; names the file.
    """
    union = None
    for row in rows:
        if is_volume(row):
            raise DataError(
                f"'{rows[0]['path']}' and '{row['path']}' are label volumes of one volume, which are not united; give "
                "each volume one, whose values are class numbers"
            )
        values = read_stored(row, "a mask").values
        found = [value for value in counts_of(values) if value]
        if found not in ([], [1], [_WHITE]):
            raise DataError(
                f"'{rows[0]['path']}' and '{row['path']}' are masks of one image, and the values of the latter are "
                f"{found[:20]}; several masks of one image are united only where all are binary (0 and 1, or 0 and "
                "255). Give each image one mask of class numbers"
            )
        if union is not None and union.shape != values.shape:
            raise DataError(
                f"'{rows[0]['path']}' and '{row['path']}' are masks of one image, but differ in size: "
                f"{union.shape[::-1]} and {values.shape[::-1]}"
            )
        union = values > 0 if union is None else union | (values > 0)
    file = BytesIO()
    Image.fromarray(np.uint8(_WHITE) * union.astype(np.uint8)).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": rows[0]["path"]}
