"""
The oldest versions that setup.cfg admits, as constraints for pip: `python tests/oldest.py > constraints.txt`. Nothing
else says what they are; `make test-oldest` installs them and runs the fast tests against the built wheel.
"""

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def requirements(setup: Path = SETUP) -> list[Requirement]:
    """All that the package and its extras require."""
    config = ConfigParser()
    config.read_string(setup.read_text(encoding="utf-8"))
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.splitlines() if line.strip()]


def oldest(setup: Path = SETUP) -> dict[str, str]:
    """
    The lower bound of each requirement that has one, by name.

    Raises:
        ValueError: two places give one package different bounds, or a bound is not of the form `>= version`.
    """
    bounds: dict[str, str] = {}
    for requirement in requirements(setup):
        for specifier in requirement.specifier:
            if specifier.operator != ">=":
                raise ValueError(f"{requirement} has a bound other than >=")
            if bounds.setdefault(requirement.name, specifier.version) != specifier.version:
                raise ValueError(f"{requirement.name} has two lower bounds: {bounds[requirement.name]} and {specifier.version}")
    return bounds


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(oldest().items())))
