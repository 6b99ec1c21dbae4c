"""Imports that are done once, in the server from which worker processes are forked."""

import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama  # noqa: F401

import lowbit.runs.dry_run
import lowbit.runs.run  # noqa: F401
