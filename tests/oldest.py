"""
The oldest versions that setup.cfg admits, as constraints for pip: `python tests/oldest.py > constraints.txt`.

setup.cfg is the only place that states these versions. `make test-oldest` installs them and runs the fast tests
against the built wheel.
"""

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def oldest(setup: Path = SETUP) -> dict[str, str]:
    """
    The lower bound of each requirement of the package and its extras, by name.

    Raises:
        ValueError: a requirement has no lower bound, has bounds other than `>=` and `<`, or has two lower bounds.
    """
    config = ConfigParser()
    config.read_string(setup.read_text(encoding="utf-8"))
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    bounds: dict[str, str] = {}
    for requirement in [Requirement(line) for text in texts for line in text.splitlines() if line.strip()]:
        name = requirement.name
        lower = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if not lower:
            raise ValueError(f"{requirement} has no lower bound: write {name} >= the oldest version that is tested")
        if other := sorted(str(bound) for bound in requirement.specifier if bound.operator not in (">=", "<")):
            raise ValueError(f"{requirement} has the bound {other[0]}: use >= version or < major version")
        for version in lower:
            if bounds.setdefault(name, version) != version:
                raise ValueError(f"{name} has two lower bounds, {bounds[name]} and {version}: keep one")
    return bounds


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(oldest().items())))
