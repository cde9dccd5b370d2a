"""Models and snapshots in one of Optuna's artifact stores: a folder, or a bucket of S3. There other machines and the dashboard find them.

An artifact's id follows from the study and its name, so that what is put there again, after a kill, replaces what was there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.artifacts.exceptions import ArtifactNotFound

from model.files import whole
from tuner.errors import StorageError

BUCKET = "s3://"
MODEL, PICTURE = "application/octet-stream", "image/png"


def curve_name(trial: int) -> str:
    """The name of the picture of a trial's learning curve."""
    return f"trial-{trial}.png"


class Folder(FileSystemArtifactStore):
    """A folder in which an artifact is whole or not there; one that lies on the same disk already takes no room a second time."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Links the file if that can be, else copies it; OSError where it cannot be written, ValueError if outside the folder."""
        with whole(self._get_filepath(artifact_id)) as partial:
            try:
                os.link(content_body.name, partial)
            except (OSError, AttributeError, TypeError):  # another disk, a disk without links, a body without a name
                with partial.open("wb") as file:
                    shutil.copyfileobj(content_body, file)

    def remove(self, artifact_id: str) -> None:
        """Whether it is there or not, as in a bucket: the dashboard removes all that a study ever had, and stops at an error."""
        with contextlib.suppress(ArtifactNotFound):
            super().remove(artifact_id)


class _Body(io.RawIOBase):
    """An object of S3 as it is read: what goes wrong in its middle is an error of a disk too.

    Args:
        asked: within it the errors of S3 are OSError.
    """

    def __init__(self, body: BinaryIO, asked: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._body, self._asked = body, asked

    def readable(self) -> bool:
        """From its beginning to its end, once."""
        return True

    def readinto(self, buffer: Any) -> int:
        """OSError where the connection breaks off."""
        with self._asked():
            found = self._body.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Gives the connection back."""
        self._body.close()
        super().close()


class Bucket:
    """A bucket of S3, or a part of it; its errors are OSError, as a disk's."""

    def __init__(self, name: str, prefix: str) -> None:
        import boto3.exceptions
        import botocore.config
        import botocore.exceptions

        waits = botocore.config.Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 2})
        self._store = Boto3ArtifactStore(name, boto3.client("s3", config=waits))
        self._prefix = f"{prefix}/" if prefix else ""
        self._errors = (boto3.exceptions.Boto3Error, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise OSError(f"S3: {error}") from error

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """ArtifactNotFound if it is not there."""
        with self._asked():
            return cast("BinaryIO", _Body(self._store.open_reader(self._prefix + artifact_id), self._asked))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """As a whole or not at all, as S3 does."""
        with self._asked():
            self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Whether it is there or not."""
        with self._asked():
            self._store.remove(self._prefix + artifact_id)


def open_artifacts(target: str) -> ArtifactStore:
    """The store at `s3://BUCKET/PREFIX` or in a folder.

    Raises:
        StorageError: S3 without its driver, or without credentials.
    """
    if not target.startswith(BUCKET):
        return Folder(Path(target))
    name, _, prefix = target.removeprefix(BUCKET).strip("/").partition("/")
    if not name:
        raise StorageError(f"{target!r} names no bucket; allowed: a folder, or s3://BUCKET/PREFIX")
    try:
        return Bucket(name, prefix)
    except ImportError as error:
        raise StorageError(f"the artifacts in {target} cannot be reached: install the driver with `pip install 'tuner[s3]'`") from error
    except ValueError as error:  # a region or an endpoint that is none
        raise StorageError(f"the artifacts in {target} cannot be reached: {error}") from error


class Artifacts:
    """What one study keeps in a store.

    Args:
        mark: the study's own, which no other has.
    """

    def __init__(self, store: ArtifactStore, mark: str) -> None:
        self._store, self._mark = store, mark

    @property
    def remote(self) -> bool:
        """Whether they lie on no disk of this machine."""
        return isinstance(self._store, Bucket)

    def id(self, name: str) -> str:
        """The id of the artifact of this name; in a form that the dashboard can show."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tuner:{self._mark}/{name}"))

    def put(self, name: str, path: Path) -> None:
        """Copies a file there; OSError where that cannot be."""
        with path.open("rb") as file:
            self._store.write(self.id(name), file)

    def get(self, name: str, path: Path) -> bool:
        """Copies it from there, if it is there; whether it was. OSError where it cannot be read."""
        try:
            with contextlib.closing(self._store.open_reader(self.id(name))) as there, whole(path) as partial, partial.open("wb") as file:
                shutil.copyfileobj(there, file)
        except ArtifactNotFound:
            return False
        return True

    def remove(self, name: str) -> None:
        """Removes it, if it is there."""
        self._store.remove(self.id(name))

    def attribute(self, name: str, mimetype: str) -> tuple[str, str]:
        """The system attribute by which Optuna and the dashboard know it."""
        of: dict[str, Any] = {"artifact_id": self.id(name), "filename": name, "mimetype": mimetype, "encoding": None}
        return ARTIFACTS_ATTR_PREFIX + self.id(name), json.dumps(of)
