"""
The oldest versions that setup.cfg admits, as constraints for pip: `python tests/oldest.py > constraints.txt`. Nothing
else says what they are; `make test-oldest` installs them and runs the fast tests against the built wheel.
"""

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def oldest(setup: Path = SETUP) -> dict[str, str]:
    """
    The lower bound of each requirement of the package and its extras, by name.

    Raises:
        ValueError: a requirement has no bound, two places give different ones, or one is not of the form `>= version`.
    """
    config = ConfigParser()
    config.read_string(setup.read_text(encoding="utf-8"))
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    bounds: dict[str, str] = {}
    for requirement in [Requirement(line) for text in texts for line in text.splitlines() if line.strip()]:
        name = requirement.name
        if not requirement.specifier:
            raise ValueError(f"{requirement} has no lower bound: {name} >= the oldest version that is tested")
        for bound in requirement.specifier:
            if bound.operator != ">=":
                raise ValueError(f"{requirement} has a bound other than >=")
            if bounds.setdefault(name, bound.version) != bound.version:
                raise ValueError(f"{name} has two lower bounds: {bounds[name]} and {bound.version}")
    return bounds


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(oldest().items())))
