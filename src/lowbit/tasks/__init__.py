"""Tasks: read text, turn it into token ids, and batch it. A task is one file in this folder.

base         dataclasses: document, source, task, example, batch
batching     orders examples and collates them into batches
chat         dialogues in a model's chat template
checks       checks a task's settings and text
dailydialog  DailyDialog
demo         docstrings of the standard library
demo_topics  the documentation inside Python
examples     turns documents into token ids, and token ids into examples
lm_text      text like that on which the assets' language model was pretrained
local_file   the user's own file
prepare      turns a task's name into examples, and caches them
sources      reads text from a folder or the hub
split        splits documents into four disjoint parts
sst2         SST-2
wikitext2    WikiText-2

Reading does not depend on the tokeniser, preparing does not depend on the source of the text, and
batching depends on neither. A new task is a file with a `read` function and `TASK = Task(...)`.
"""
