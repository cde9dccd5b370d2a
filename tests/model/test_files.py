"""A file is under its name whole, or not at all."""

from pathlib import Path

import pytest

from model.files import whole


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """In a folder that is made where it is missing."""
    path = tmp_path / "new" / "kept.txt"
    with whole(path) as partial:
        partial.write_text("first")
        assert not path.exists()

    def broken() -> None:
        with whole(path) as partial:
            partial.write_text("half")
            raise ValueError("cut short")

    with pytest.raises(ValueError, match="cut short"):
        broken()
    assert path.read_text() == "first"
    assert [child.name for child in path.parent.iterdir()] == ["kept.txt"]
