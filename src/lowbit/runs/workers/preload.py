"""Imported once by the server that runs are forked from, so that each need not import it again."""

import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama  # noqa: F401

import lowbit.runs.dry_run
import lowbit.runs.run  # noqa: F401
