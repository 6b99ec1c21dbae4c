"""One RunSpec becomes one Record.

allocator       the C allocator's three policies
build           a plan's model: sites, bytes, packed layers
cached_scores   scores of untrained models, cached
check           checks every run of a study before any run starts
comparison      scores of untrained models, and the gap between two of them
demo_model      a tiny model, pretrained on this machine
device          devices, compute types, and the facts of this machine
dry_run         what a run costs, measured on ten steps
encoding_cache  encoded matrices, cached
evaluate        scores of an untrained model next to 16 bits
export_model    a finished run as an ordinary model folder
finished_run    a finished run's folder as a plain model
freeze          the plan with the final ranks of a run
isolated_cost   cost of a configuration that has the machine to itself
memory_check    refuses a run that does not fit in memory, before it starts
pack            packs finished run folders into a few files, and unpacks them
packed_lines    the format of those files
packed_runs     reads finished runs from those files
prepare         the model and data that a run starts from
record          the record that a run writes, and when two may be compared
record_fields   builds a record from a model and its scores
request         one run from plain arguments
run             the whole run: prepare, build, train, score, record
run_cost        the result of a dry run
scoring         scores a model on the scored split
store           a results folder, packed or unpacked
untrained       runs that train nothing
export/         a finished run in the formats of other tools
rounding/       rounds a model's matrices with calibration text
workers/        runs in separate processes
"""
