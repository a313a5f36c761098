"""What is raised where settings cannot be used."""

from __future__ import annotations


class ConfigError(ValueError):
    """A settings file or override that cannot be used; the text names the key."""
