"""One side of a comparison, in a process of its own: prints a line of JSON.

    python bench/sides.py SIDE WORK [--model M] [--steps N] [--seed S] [--matrix | --profile]

Every side trains the same model on the same examples with rank 8 on every block matrix, nf4 in
groups of 64 (torchao: int8), embedding and head in 16 bit or wider, AdamW, clipping at 1; it is
timed step by step, the first ones left out. Peak memory is above the same process after its
imports. The peers are driven by transformers' own Trainer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SIDES = {
    "ours": "lowbit, packed",
    "ours-decoded": "lowbit, residency = decoded",
    "ours-checkpointing": "lowbit, packed, checkpointing",
    "a": "(a) Trainer + PEFT + bitsandbytes, as documented",
    "b": "(b) the same, tuned",
    "c": "(c) Trainer + PEFT + torchao int8 weight-only",
}
EXTRAS = {"a": "bitsandbytes", "b": "bitsandbytes", "c": "torchao"}
WINDOW, RANK, WARM, LOOKED_AT = 256, 8, 3, 32
FORMATS = ("nf4@64", "nf4@64+dq")
WORKS = {"lm": 4, "sst2": 8}
"""Examples a step."""


@dataclass(frozen=True)
class Job:
    """What is asked of a side."""

    side: str
    work: str
    model: str
    steps: int
    sentences: int
    seed: int
    dq: bool = False
    profile: bool = False


def main() -> None:
    warnings.filterwarnings("ignore")
    job, matrix = _job()
    if matrix:
        print(json.dumps(six(job)))
    else:
        print(json.dumps((ours if job.side.startswith("ours") else peer)(job)))


def six(job: Job) -> dict[str, float]:
    """Two plans (nf4, and with doubly quantised scales) x three seeds, scored, start to end.

    Peers go one after another in one process, which is how their scripts are written and what
    spares them loading the libraries again; torchao has one plan, run six times.
    """
    began = time.perf_counter()
    if job.side.startswith("ours"):
        quality = _six_of_ours(job)
    else:
        jobs = [replace(job, dq=dq, seed=seed) for dq in (False, True) for seed in range(3)]
        quality = [peer(one)["quality"] for one in jobs]
    return {"seconds": time.perf_counter() - began, "quality": sum(quality) / len(quality)}


def _six_of_ours(job: Job) -> list[float]:
    """Through the engine, two at a time with a thread each, records written."""
    import tempfile

    from lowbit.engines.base import Cell, Order
    from lowbit.engines.local import ENGINE
    from lowbit.spec import Execution, Plan, RunSpec, TaskSpec, TrainSpec

    train = TrainSpec(batch=WORKS["sst2"], lr=1e-3, epochs=1, keep="last")
    task = TaskSpec("sst2", limit=job.sentences)
    plans = [Plan(f"p{i}", f, embedding="bf16", rank=RANK) for i, f in enumerate(FORMATS)]
    runs = [RunSpec(job.model, task, plan, train, seed) for plan in plans for seed in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        cells = [Cell(run, Path(folder) / run.name) for run in runs]
        residency: Any = "decoded" if job.side == "ours-decoded" else "packed"
        order = Order(Execution(device="cpu", residency=residency), jobs=2)
        endings = ENGINE.carry_out(cells, order, lambda _: None)
        return [e.record.metrics["accuracy"] for e in endings if e.record is not None]


def _job() -> tuple[Job, bool]:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--model", default="assets:lm-14m")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sentences", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="where our own time goes")
    parser.add_argument("--matrix", action="store_true", help="six runs, start to end")
    found = vars(parser.parse_args())
    matrix = found.pop("matrix")
    return Job(**found), matrix


# -- what is trained on ----------------------------------------------------------------------------


def data_of(job: Job, tokenizer: Any, vocabulary: int) -> tuple[Any, Any]:
    """(training examples, scored examples), the same for every side."""
    import numpy as np

    from lowbit.spec import TaskSpec
    from lowbit.tasks.base import Example
    from lowbit.tasks.cache import cache_dir
    from lowbit.tasks.prepare import prepare

    if job.work == "sst2":
        found = prepare(TaskSpec("sst2", limit=job.sentences), tokenizer, 512, cache_dir())
        return found.parts["train"], found.parts["scored"]
    if tokenizer is not None:
        task = TaskSpec("wikitext2", window=WINDOW)
        parts = prepare(task, tokenizer, 2 * WINDOW, cache_dir()).parts
        whole = {n: [e for e in part if len(e.ids) == WINDOW] for n, part in parts.items()}
        return whole["train"], whole["scored"][:LOOKED_AT]
    source = np.random.default_rng(job.seed)
    rows = source.integers(0, vocabulary, (job.steps * WORKS["lm"] + LOOKED_AT, WINDOW + 1))
    made = [Example(row[:-1], row[1:], i, 1) for i, row in enumerate(rows)]
    return made[LOOKED_AT:], made[:LOOKED_AT]


def folder_of(reference: str) -> tuple[Path, bool]:
    """(folder, whether it holds a tokenizer); `random:LAYERSxWIDTH` is made on first use."""
    from lowbit.models.loading import resolve

    if not reference.startswith("random:"):
        return resolve(reference), True
    return made(reference), False


def made(reference: str) -> Path:
    """A Llama of random weights with the vocabulary of SmolLM, kept in the cache."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lowbit.tasks.cache import cache_dir

    layers, width = (int(word) for word in reference.removeprefix("random:").split("x"))
    folder = cache_dir() / "models" / f"random-{layers}x{width}"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49_152, hidden_size=width, intermediate_size=width * 8 // 3,
            num_hidden_layers=layers, num_attention_heads=width // 64,
            num_key_value_heads=width // 64, max_position_embeddings=512,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def summary(marks: list[tuple[float, int]], peak: int, quality: float) -> dict[str, float]:
    """Of (seconds, tokens) at the end of every step; the first steps are left out."""
    seconds = marks[-1][0] - marks[WARM - 1][0]
    tokens = marks[-1][1] - marks[WARM - 1][1]
    steps = [b[0] - a[0] for a, b in zip(marks[WARM - 1 :], marks[WARM:], strict=False)]
    return {
        "tokens_per_s": tokens / seconds,
        "step_s": sorted(steps)[len(steps) // 2],
        "mean_step_s": seconds / len(steps),
        "seconds": marks[-1][0] - marks[0][0],
        "peak": peak,
        "quality": quality,
    }


# -- ours ------------------------------------------------------------------------------------------


def ours(job: Job) -> dict[str, float]:
    """Through the product's own loading and its one training loop."""
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama  # noqa: F401

    from lowbit import device as machine
    from lowbit.adapt import Setting, adapt
    from lowbit.evaluate import evaluate, ratio
    from lowbit.models.loading import open_checkpoint, tokenizer_of
    from lowbit.ready import Prepared, install_run
    from lowbit.spec import Execution, Plan, RunSpec, TaskSpec, TrainSpec
    from lowbit.tasks.base import Data
    from lowbit.tasks.prepare import find

    folder, reads = folder_of(job.model)
    execution = Execution(
        device="cpu",
        residency="decoded" if job.side == "ours-decoded" else "packed",
        checkpointing=job.side == "ours-checkpointing",
    )
    device, compute = machine.set_up(execution, "auto")
    checkpoint = open_checkpoint(folder)
    tokenizer = tokenizer_of(folder) if reads else None
    train, scored = data_of(job, tokenizer, checkpoint.config.vocab_size)
    memory = machine.PeakMemory(device)
    memory.start()
    name = "sst2" if job.work == "sst2" else "wikitext2"
    plan = Plan("bench", "nf4@64+dq" if job.dq else "nf4@64", embedding="bf16", rank=RANK)
    settings = TrainSpec(
        batch=WORKS[job.work], lr=1e-3, warmup=0, epochs=100, steps=job.steps, keep="last"
    )
    spec = RunSpec(job.model, TaskSpec(name), plan, settings, job.seed)
    task, parts = find(name), {"train": train, "selection": scored[:1], "scored": scored}
    data = Data(task.kind, parts, ("0", "1") if job.work == "sst2" else (), (), "bench")
    made_run = install_run(spec, Prepared(checkpoint, task, data, 0), execution, device, compute)
    marks: list[tuple[float, int]] = []
    setting = Setting(
        kind=task.kind,
        train=settings,
        seed=job.seed,
        device=device,
        watcher=lambda _, __, tokens, ___: marks.append((time.perf_counter(), tokens)),
    )
    if job.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            adapt(made_run.model, parts, setting)
        averages = seen.key_averages(group_by_input_shape=True)
        sys.stderr.write(averages.table(sort_by="self_cpu_time_total", row_limit=40))
    else:
        adapt(made_run.model, parts, setting)
    peak = memory.peak() - memory.idle
    found, _ = evaluate(made_run.model, scored, task.kind, 32, device)
    return {**summary(marks, peak, ratio(found)), "threads": torch.get_num_threads()}


# -- the peers -------------------------------------------------------------------------------------


def peer(job: Job) -> dict[str, float]:
    import torch
    import transformers
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama
    from peft import get_peft_model

    from lowbit import device as machine
    from lowbit.models.loading import quiet, tokenizer_of

    if job.side == "c":
        import torchao  # noqa: F401
    else:
        import bitsandbytes  # noqa: F401
    transformers.logging.set_verbosity_error()
    cpu = torch.device("cpu")
    compute = machine.TYPES[machine.resolve_compute("auto", cpu)]
    folder, reads = folder_of(job.model)
    tokenizer = tokenizer_of(folder) if reads else None
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    train, scored = data_of(job, tokenizer, vocabulary)
    memory = machine.PeakMemory(cpu)
    memory.start()
    torch.manual_seed(job.seed)
    with quiet():
        model = _quantised(job, folder, torch.float32 if job.side == "a" else compute)
        model = get_peft_model(model, _lora(job))
    marks: list[tuple[float, int]] = []
    trainer = _trainer(job, model, train, tokenizer, marks)
    trainer.train()
    peak = memory.peak() - memory.idle
    return summary(marks, peak, _quality(job, model, scored))


def _quantised(job: Job, folder: Path, compute: Any) -> Any:
    from peft import prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
        TorchAoConfig,
    )

    language = job.work == "lm"
    auto = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    more = {} if language else {"num_labels": 2}
    if job.side == "c":
        from torchao.quantization import Int8WeightOnlyConfig

        heads = ["lm_head", "classifier", "pooler"]
        how: Any = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=heads)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_use_double_quant=job.dq,
            # Or the fresh head would be stored in 4 bits and could not train.
            llm_int8_skip_modules=["lm_head", "classifier", "pooler"],
        )
    model = auto.from_pretrained(folder, quantization_config=how, dtype=compute, **more)
    for module in model.modules():
        # Or training after an evaluation goes through a kernel without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model) if job.side == "a" else model


def _lora(job: Job) -> Any:
    from peft import LoraConfig

    if job.work == "lm":
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, task_type="CAUSAL_LM")
    return LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["query", "key", "value", "dense"],
        exclude_modules=["bert.pooler.dense"],
        modules_to_save=["classifier"],
        task_type="SEQ_CLS",
    )


def _trainer(job: Job, model: Any, train: Any, tokenizer: Any, marks: list[Any]) -> Any:
    import tempfile

    from transformers import (
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    lengths = [len(e.ids) for e in train]
    a_step = WORKS[job.work] * sum(lengths) / len(lengths)

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.perf_counter(), round(a_step * (len(marks) + 1))))

    language = job.work == "lm"
    rows = [
        {"input_ids": e.ids.tolist(), "labels": e.ids.tolist() if language else int(e.target[0])}
        for e in train
    ]
    tuned = {"train_sampling_strategy": "group_by_length"} if job.side != "a" else {}
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=WORKS[job.work],
        max_steps=job.steps,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        seed=job.seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **({} if language else tuned),
    )
    collate = default_data_collator if language else DataCollatorWithPadding(tokenizer)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        callbacks=[Marks()],
    )


def _quality(job: Job, model: Any, scored: Any) -> float:
    """Nats a token, or accuracy, of the peer's model on the scored examples."""
    import torch

    model.eval()
    total, size = 0.0, 4 if job.work == "lm" else 32
    rows = sorted(scored, key=lambda example: len(example.ids))
    with torch.no_grad():
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            ids = torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(e.ids.astype("int64")) for e in part], batch_first=True
            )
            lengths = torch.tensor([len(e.ids) for e in part])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
            target = torch.stack([torch.from_numpy(e.target.astype("int64")) for e in part])
            if job.work == "lm":
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
                total += float(loss) * len(part)
            else:
                total += float((logits.argmax(-1) == target[:, 0]).sum())
    return total / len(scored)


if __name__ == "__main__":
    main()
