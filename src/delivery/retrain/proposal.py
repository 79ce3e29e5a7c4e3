"""The texts of a proposal: title, description and commit message, of fixed words.

GitLab acts on foreign text: `/merge` at the start of a line merges, `@name` notifies, a link is a
link. So the texts contain only fixed words, our own numbers, versions, and names of alerts that
match a pattern. The evidence itself is in the report.
"""

from typing import NamedTuple

from pydantic import ValidationError

from contracts import reports
from contracts.reports import CHALLENGE, Figures
from delivery.errors import ToolError
from delivery.retrain.alert import Evidence


class Challenge(reports.Challenge):
    """The comparison of the retrained model with the target's, in words."""

    @property
    def is_loss(self) -> bool:
        """The new model is worse beyond the uncertainty."""
        return self.verdict == "worse"

    @property
    def sentence(self) -> str:
        """The verdict with its figures."""
        duels = [
            _compared(duel, which)
            for which, duel in (("pinned", self.pinned), ("new", self.new))
            if duel
        ]
        if self.verdict is None or not duels:
            return "The new model could not be compared with the one before it."
        end = ", and should not be merged" if self.is_loss else ""
        return f"The new model is {self.verdict}{end}: {'; '.join(duels)}."


def _compared(figures: Figures, which: str) -> str:
    change = figures.challenger - figures.champion
    return (
        f"on {figures.chips} {which} test chips {change:+.2%} accuracy "
        f"(95 % interval {figures.low:+.2%} to {figures.high:+.2%})"
    )


def read_challenge(content: bytes) -> Challenge:
    """Read the result of pipeline.challenge.

    Raises:
        ToolError: it has another format.
    """
    try:
        return Challenge.model_validate_json(content)
    except ValidationError:
        raise ToolError(f"{CHALLENGE} is not what pipeline.challenge writes") from None


class Proposal(NamedTuple):
    """A retrained model, why it was trained, and how it compares."""

    evidence: Evidence | None
    challenge: Challenge

    @property
    def title(self) -> str:
        """Title of the merge request; a worse model is a draft, which GitLab does not merge."""
        return f"{'Draft: ' if self.challenge.is_loss else ''}{self._title}"

    @property
    def message(self) -> str:
        """Message of the commit."""
        return "\n\n".join(
            part for part in (self._title, self._alerts, self.challenge.sentence) if part
        )

    @property
    def description(self) -> str:
        """Description of the merge request, one line."""
        begin = "Proposed by the retraining." if self._alerts else "Proposed by `make retrain`."
        end = "The report below has the evidence, the change of the data and the comparison."
        return " ".join(
            part for part in (begin, self._alerts, self.challenge.sentence, end) if part
        )

    @property
    def news(self) -> str:
        """Text for the chat."""
        return f"{self.title}\n{self.challenge.sentence}"

    @property
    def _title(self) -> str:
        return "Retrain the model" + (f": {self.evidence.drift}" if self.evidence else "")

    @property
    def _alerts(self) -> str:
        names = self.evidence.names if self.evidence else []
        return f"Alerts: {', '.join(names)}." if names else ""
