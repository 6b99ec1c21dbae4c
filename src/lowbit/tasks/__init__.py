"""Data becomes batches, and a task is one file here.

    read:    wherever the text lives -> four disjoint parts of documents     (wikitext2.py, ...)
    prepare: documents -> examples of token ids, once, kept in a cache       (prepare.py)
    batches: examples in a stated order -> padded tensors                    (batching.py)

Reading knows nothing of tokenisers, preparing nothing of where text comes from, and batching
nothing of either, so a new task is a `read` function and a name: `TASK = Task(...)`.
"""
