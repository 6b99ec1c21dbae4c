"""The one training loop and the modules it calls.

checkpoint       what a run needs to continue where it stopped
compile          torch.compile for the small, repeated parts
distillation     losses against the unquantised model
evaluate         sums and counts over a part of the data
gradient_noise   a warning when gradients become noisier
hooks            the functions that a method can add to the loop
log              clocks, and the lines of log.jsonl
loop             the training loop
losses           the loss of each kind of task, chunked over the vocabulary
rank_schedule    AdaLoRA and linear rank schedules
state            a model's trained state, saved and restored
teacher_outputs  the unquantised model's outputs, compressed
ternary_hooks    ternary training as hooks
"""
