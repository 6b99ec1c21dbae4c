"""The peers' sides, run by transformers' Trainer:

a   PEFT and bitsandbytes nf4 as their documentation sets them up
b   the same, tuned as well as an expert would
c   PEFT and torchao's int8 weight-only, tuned likewise
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from request import RANK, WORKS, Job, data_of, folder_of, summary


def run(job: Job) -> dict[str, float]:
    import torch
    import transformers
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama
    from peft import get_peft_model

    from lowbit.models.checkpoint import tokenizer_of
    from lowbit.models.skeleton import quiet
    from lowbit.runs import device as machine

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
