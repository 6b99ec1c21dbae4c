"""One RunSpec becomes one Record.

allocator       the C allocator's two policies
build           a plan's model: sites, bytes, packed layers
cached_scores   scores of untrained models, cached
check           every run of a study against its model and data, before any begins
comparison      scores of untrained models, and a gap between two
demo_model      the tiny model that is pretrained here
device          devices, compute types, and the facts of this machine
dry_run         what a run costs, measured on ten steps
encoding_cache  encoded matrices, cached
evaluate        scores of an untrained model next to 16 bits
export_model    a finished run as an ordinary model folder
finished_run    a finished run's folder as a plain model
freeze          the plan that a run ended with
isolated_cost   what a configuration costs alone on the machine
memory_check    refuses what does not fit, before it starts
pack            finished run folders into a few files, and back
packed_lines    the format of those files
packed_runs     finished runs read from those files
prepare         what a run starts from: model and data
record          the record that a run writes
record_fields   builds a record from a model and its scores
request         one run from plain arguments
run             the whole run: prepare, build, train, score, record
run_cost        what a dry run measures
scoring         scores of the scored split
store           a results folder, packed or not
untrained       runs that train nothing
export/         a finished run in the formats of others
workers/        runs in processes of their own
"""
