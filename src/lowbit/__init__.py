"""lowbit: what low precision costs a fine-tune, and where to spend the bytes.

Names are imported when they are first used, so `import lowbit` takes no time and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowbit.core.errors import LowbitError
    from lowbit.core.spec import Plan, RunSpec
    from lowbit.plan.file import load_plan
    from lowbit.planner.plan_for_budget import plan_for_budget
    from lowbit.report.write_report import write_report
    from lowbit.runs.evaluate import evaluate
    from lowbit.runs.export_model import export_model
    from lowbit.runs.record import Record
    from lowbit.sensitivity.by_name import measure, predict
    from lowbit.study.execute import adapt, run_study
    from lowbit.study.study import Study, read_study

__version__ = "0.1.0"
__all__ = [
    "LowbitError",
    "Plan",
    "Record",
    "RunSpec",
    "Study",
    "__version__",
    "adapt",
    "evaluate",
    "export_model",
    "load_plan",
    "measure",
    "plan_for_budget",
    "predict",
    "read_study",
    "run_study",
    "write_report",
]

_MODULES = {
    "LowbitError": "core.errors",
    "Plan": "core.spec",
    "Record": "runs.record",
    "RunSpec": "core.spec",
    "Study": "study.study",
    "adapt": "study.execute",
    "evaluate": "runs.evaluate",
    "export_model": "runs.export_model",
    "load_plan": "plan.file",
    "measure": "sensitivity.by_name",
    "plan_for_budget": "planner.plan_for_budget",
    "predict": "sensitivity.by_name",
    "read_study": "study.study",
    "run_study": "study.execute",
    "write_report": "report.write_report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lowbit' has no attribute '{name}'")
    value = getattr(import_module(f"lowbit.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
