"""An OpenAI-compatible endpoint as a proposer: openai:http://localhost:8000/v1

The model is $LOWBIT_PROPOSER_MODEL, or the first one that the endpoint lists. The key is
$OPENAI_API_KEY. The model gets program.md, prepare.py, results.tsv and train.py. It answers with
one sentence and the complete new train.py in a fenced block. If the block is missing, the request
is sent again, at most twice.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from lowbit.core.errors import RunError, UserError
from lowbit.research.proposers.base import Proposal, Proposer, ProposerKind
from lowbit.research.proposers.view import View

TRIES = 3
SECONDS = 600.0
ASK = (
    "Make ONE focused change to train.py that may lower val_ppl. Answer with one sentence that "
    "says what you change, and then the whole new train.py in one ```python block."
)
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class EndpointProposer:
    """Asks a model behind an OpenAI-compatible endpoint."""

    url: str
    seed: int
    name: str = "openai"

    def propose(self, view: View) -> Proposal | None:
        openai = _library()
        key = os.environ.get("OPENAI_API_KEY") or "none"
        client = openai.OpenAI(base_url=self.url, api_key=key, timeout=SECONDS)
        cost = {"prompt_tokens": 0, "completion_tokens": 0}
        try:
            model = os.environ.get("LOWBIT_PROPOSER_MODEL") or client.models.list().data[0].id
            for attempt in range(TRIES):
                answer = client.chat.completions.create(
                    model=model, messages=_messages(view), seed=self.seed + view.trial + attempt
                )
                _count(cost, answer.usage)
                edit = parse_answer(answer.choices[0].message.content or "")
                if edit is not None:
                    return Proposal(*edit, None, {**cost, "model": model})
        except (openai.OpenAIError, IndexError) as error:
            raise RunError(f"{self.url}: {type(error).__name__}: {error}") from None
        raise RunError(f"{model} at {self.url} gave no train.py in {TRIES} answers")


def parse_answer(answer: str) -> tuple[str, str] | None:
    """(train.py, description) from an answer; None without a fenced block.

    The longest block is the program; the last line before the first block is the description.
    """
    blocks = [block.group(1) for block in FENCED.finditer(answer)]
    if not blocks:
        return None
    before = answer.partition("```")[0].strip().splitlines()
    return max(blocks, key=len), before[-1].strip() if before else ""


def _messages(view: View) -> list[dict[str, str]]:
    parts = {"program.md": view.program, "prepare.py": view.fixed, "results.tsv": view.results}
    files = [f"# {name}\n{text}" for name, text in {**parts, "train.py": view.text}.items()]
    return [
        {"role": "system", "content": view.program},
        {"role": "user", "content": "\n\n".join([*files, ASK])},
    ]


def _count(cost: dict[str, int], usage: Any) -> None:
    for name in cost:
        cost[name] += int(getattr(usage, name, 0) or 0)


def _library() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            "an openai: proposer needs the openai package: pip install 'lowbit[research]'"
        ) from None
    return openai


def make(argument: str, seed: int) -> Proposer:
    if not argument.startswith(("http://", "https://")):
        raise UserError("openai: needs a URL, for example openai:http://localhost:8000/v1")
    return EndpointProposer(argument, seed)


PROPOSER = ProposerKind("openai", "an OpenAI-compatible endpoint, by its URL", make)
