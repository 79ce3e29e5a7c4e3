"""What a process of a test does: open the model, run one test, answer."""

import resource
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.model_tests import kinds
from pipeline.model_tests.definition import Definition
from pipeline.model_tests.peak import peak
from pipeline.model_tests.runner import Answer
from pipeline.model_tests.slices import NotApplicable
from pipeline.model_tests.subject import Subject


@dataclass(frozen=True)
class Work:
    """Runs tests of a definition on the bundle of the working directory."""

    scratch: Path
    definition: Definition

    def __call__(self, name: str) -> Answer:
        """Run one; whatever goes wrong is an answer, too."""
        answer = self._answer(name)
        uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        seconds = sum(use.ru_utime + use.ru_stime for use in uses)
        return answer._replace(cpu_seconds=seconds, peak_mib=peak())

    def _answer(self, name: str) -> Answer:
        try:
            subject = Subject(self.scratch, self.definition.chips)
            found = kinds.run(name, self.definition.tests[name], subject)
        except NotApplicable as reason:
            return Answer("not applicable", str(reason))
        except PipelineError as error:
            return Answer("error", str(error))
        except MemoryError:
            return Answer("error", "memory ran out: lower chips or at_a_time")
        except Exception as error:  # of ONNX Runtime, for example; the others go on
            return Answer("error", f"{type(error).__name__}: {error}")
        state = "held" if found.holds else "missed"
        return Answer(state, found.text, found.measure, found.points)
