"""The files of a source, on this machine or in an object store: which there are, and their bytes."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.tables import ID, TIME

LISTED = pa.schema(
    {"file_id": ID, "source": pa.string(), "path": pa.string(), "size": pa.int64(), "modified": TIME},
)
"""A file that was found: `path` is below the place's root. Its id changes with its size and time of change."""

WILD = "*?["


@dataclass(frozen=True)
class Place:
    """A file, all files of a folder, or those that a glob names; `*` matches across folders too."""

    filesystem: pafs.FileSystem
    root: str
    pattern: str

    @classmethod
    def of(cls, place: str) -> Self:
        """What a recipe's path or URI names. S3's endpoint may stand in the URI: `?endpoint_override=…&scheme=http`.

        Raises:
            JuZhouError: the URI has a scheme that there is no file system for.
        """
        try:
            if "://" in place:
                filesystem, path = pafs.FileSystem.from_uri(place)
            else:
                filesystem, path = pafs.LocalFileSystem(), str(Path(place).absolute())
        except (pa.ArrowException, OSError) as error:
            raise JuZhouError(f"{place}: {error}") from error
        steps = PurePosixPath(path).parts
        tame = next((number for number, step in enumerate(steps) if any(mark in step for mark in WILD)), len(steps))
        if tame == len(steps) and filesystem.get_file_info(path).type is pafs.FileType.Directory:
            return cls(filesystem, path, "*")
        tame = min(tame, len(steps) - 1)
        return cls(filesystem, str(PurePosixPath(*steps[:tame])), "/".join(steps[tame:]))

    def files(self, suffixes: Sequence[str] = ("",)) -> list[pafs.FileInfo]:
        """The files, in the order of their paths; hidden ones and those with other suffixes do not count.

        Raises:
            JuZhouError: they cannot be listed.
        """
        if any(mark in self.pattern for mark in WILD):
            asked = pafs.FileSelector(self.root, recursive=True, allow_not_found=True)
        else:
            asked = [f"{self.root}/{self.pattern}"]
        try:
            infos = self.filesystem.get_file_info(asked)
        except UnicodeDecodeError as error:
            raise JuZhouError(f"{self.root}: a file's name is not UTF-8; rename {error.object!r}") from error
        except OSError as error:
            raise JuZhouError(f"{self.root}: {' '.join(str(error).split())}") from error
        return sorted(
            (
                info
                for info in infos
                if info.is_file
                and fnmatch.fnmatch(path := self.below(info), self.pattern)
                and path.lower().endswith(tuple(suffixes))
                and not any(step.startswith(".") for step in path.split("/"))
            ),
            key=lambda info: info.path,
        )

    def below(self, info: pafs.FileInfo) -> str:
        """A file's path below the root."""
        return info.path.removeprefix(self.root).lstrip("/")

    def listed(self, source: str, suffixes: Sequence[str] = ("",)) -> pa.Table:
        """The files as rows of LISTED.

        Raises:
            JuZhouError: there are none.
        """
        files = self.files(suffixes)
        if not files:
            kinds = " or ".join(suffixes) or "file"
            raise JuZhouError(f"{self.root}/{self.pattern}: no {kinds} is there; it is the source '{source}'")
        rows = [
            {
                "file_id": digest(f"{source}\n{self.below(info)}\n{info.size}\n{info.mtime_ns}".encode()),
                "source": source,
                "path": self.below(info),
                "size": info.size,
                "modified": info.mtime,
            }
            for info in files
        ]
        return pa.Table.from_pylist(rows, schema=LISTED)

    def open(self, path: str) -> pa.NativeFile:
        """A file's bytes, seekable, by its path below the root."""
        return self.filesystem.open_input_file(f"{self.root}/{path}")
