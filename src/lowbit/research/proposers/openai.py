"""An OpenAI-compatible endpoint as a proposer: openai:http://localhost:8000/v1

The model is $LOWBIT_PROPOSER_MODEL, else the first that the endpoint lists; the key is
$OPENAI_API_KEY. It is shown the program, the table and train.py, and answers with one sentence and
the whole new train.py in a fenced block. An answer without one is asked for again, twice.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from lowbit.core.errors import RunError, UserError
from lowbit.research.proposers.base import Kind, Proposal, Proposer
from lowbit.research.proposers.view import View

TRIES = 3
SECONDS = 600.0
ASK = (
    "Make ONE focused change to train.py that may lower val_ppl. Answer with one sentence that "
    "says what you change, and then the whole new train.py in one ```python block."
)
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Endpoint:
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
                answered = parsed(answer.choices[0].message.content or "")
                if answered is not None:
                    return Proposal(*answered, None, {**cost, "model": model})
        except (openai.OpenAIError, IndexError) as error:
            raise RunError(f"{self.url}: {type(error).__name__}: {error}") from None
        raise RunError(f"{model} at {self.url} gave no train.py in {TRIES} answers")


def parsed(answer: str) -> tuple[str, str] | None:
    """(train.py, description) of an answer; the longest block is the program."""
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
            "an openai: proposer needs the client: pip install 'lowbit[research]'"
        ) from None
    return openai


def make(argument: str, seed: int) -> Proposer:
    if not argument.startswith(("http://", "https://")):
        raise UserError("openai: wants an address, like openai:http://localhost:8000/v1")
    return Endpoint(argument, seed)


PROPOSER = Kind("openai", "an OpenAI-compatible endpoint, by its address", make)
