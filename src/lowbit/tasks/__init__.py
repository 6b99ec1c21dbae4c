"""Data becomes batches; a task is one file here.

base         a document, a source, a task, an example, a batch
batching     examples in a stated order become batches
checks       what must hold of a task's settings and text
dailydialog  DailyDialog
demo         docstrings of the standard library
demo_topics  the documentation inside Python
examples     documents become token ids, token ids become examples
lm_text      the assets' language model on its own domain
local_file   the user's own file
prepare      from a task's name to examples, kept in a cache
sources      where text comes from: a folder or the hub
split        documents cut into four disjoint parts
sst2         SST-2
wikitext2    WikiText-2

Reading knows nothing of tokenisers, preparing nothing of where text comes from, and batching
nothing of either. A new task is a `read` function and a name: `TASK = Task(...)`.
"""
