"""How large a picture is: the first question asked of any picture, and the cheapest."""

from collections.abc import Sequence

import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity


class Size:
    """Width and height upright, as a viewer sees them; the long side over the short; the share that is transparent."""

    name = "size"
    columns = pa.schema(
        {
            "width": pa.int32(),
            "height": pa.int32(),
            "pixels": pa.int64(),
            "aspect": pa.float32(),
            "transparent": pa.float32(),
        }
    )

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=1)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        sizes = [(picture.width, picture.height) for picture in pictures]
        return {
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
            "pixels": [width * height for width, height in sizes],
            "aspect": [max(size) / min(size) for size in sizes],
            "transparent": [picture.transparent for picture in pictures],
        }
