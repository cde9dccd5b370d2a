"""Study definitions as TOML data, shipped with the program; no code beyond loading them by name."""

from importlib import resources


def names() -> list[str]:
    """The shipped studies."""
    return sorted(entry.name.removesuffix(".toml") for entry in resources.files(__name__).iterdir() if entry.name.endswith(".toml"))


def read(name: str) -> bytes:
    """The text of a shipped study."""
    return (resources.files(__name__) / f"{name}.toml").read_bytes()
