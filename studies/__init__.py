"""Study definitions and presets as TOML data, shipped with the program; no code beyond loading them by name."""

from importlib import resources


def _stems(folder: str) -> list[str]:
    entries = resources.files(__name__).joinpath(folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def names() -> list[str]:
    """The shipped studies."""
    return _stems("")


def read(name: str) -> bytes:
    """The text of a shipped study."""
    return (resources.files(__name__) / f"{name}.toml").read_bytes()


def presets() -> list[str]:
    """The shipped presets: settings that a search found, for `tuner train --preset`."""
    return _stems("presets")


def read_preset(name: str) -> bytes:
    """The text of a shipped preset."""
    return (resources.files(__name__) / "presets" / f"{name}.toml").read_bytes()
