"""Can this policy be trusted? Three numbers for the top of its page, and how to measure those that are missing."""

from __future__ import annotations

from dataclasses import dataclass

from reports.page.html import number
from reports.page.lineage import Lineage
from rwmdata.evaluation_summary import Scalar
from rwmdata.runs import Run
from rwmdata.text import quoted


@dataclass(frozen=True)
class Question:
    """What is asked of a policy, and which number of which evaluation answers it."""

    text: str
    evaluation: str
    metric: str
    mode: str
    horizon: int | None
    meaning: str
    share: bool = True
    """Whether the number is a share, shown in percent."""
    of_imagination: bool = True
    """Whether it is asked only of a policy that was trained in a model."""


QUESTIONS = (
    Question(
        "Does it stay on its feet?", "policy", "share_without_fall", "disturbed", None,
        "of its episodes in the simulator, with pushes and noise, end without a fall", of_imagination=False,
    ),
    Question(
        "Are its falls foreseen?", "falls", "foreseen/termination", "recorded_actions", 25,
        "of its falls the model foresees 25 steps before, given its actions",
    ),
    Question(
        "Does it walk as imagined?", "closed-loop", "rel_l1", "imagined", 25,
        "relative error, up to 25 steps, of its imagined walk against the simulated one", share=False,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A question and its number; without one, the command that measures it."""

    question: str
    value: str
    interval: str
    meaning: str
    command: str = ""


def answers_of(lineage: Lineage) -> list[Answer]:
    """Return the answers about the newest policy of a page; none where the page has no policy."""
    policy = next(iter(lineage.policies.values()), None)
    if policy is None:
        return []
    asked = [q for q in QUESTIONS if lineage.models or not q.of_imagination]
    return [_answer(question, lineage, policy) for question in asked]


def _answer(question: Question, lineage: Lineage, policy: Run) -> Answer:
    for summary in lineage.of(policy):
        found = summary.find(question.metric, question.mode, question.horizon)
        if summary.evaluation == question.evaluation and found and found.value is not None:
            return Answer(question.text, _shown(found.value, question), _interval(found, question), question.meaning)
    model = "" if question.evaluation == "policy" else f" --model {quoted(next(iter(lineage.models)))}"
    command = f"rwm eval {question.evaluation} --policy {quoted(policy.id)}{model}"
    return Answer(question.text, "?", "", "Not measured yet.", command)


def _shown(value: float, question: Question) -> str:
    return f"{100 * value:.0f} %" if question.share else number(round(value, 3))


def _interval(found: Scalar, question: Question) -> str:
    """Return the 95 % interval as text; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"95 % interval {_shown(found.low, question)} to {_shown(found.high, question)}"
