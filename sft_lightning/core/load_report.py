"""What was loaded of pretrained weights."""

from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """Reports what was loaded from `pretrained`. Names are those in the file."""

    source: str = ""
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Choices and conversions during loading, in words"""

    def lines(self) -> list[str]:
        said = [f"{self.loaded} tensors from {self.source}"] if self.source else []
        for what in ("missing", "unexpected"):
            names = getattr(self, what)
            if names:
                more = f" and {len(names) - 6} more" if len(names) > 6 else ""
                said.append(f"{what} in it: {', '.join(names[:6])}{more}")
        return said + self.notes
