"""The one training loop and the modules it calls.

checkpoint       saves and loads the state of an interrupted run
compile          torch.compile for norms and activations
distillation     losses against the unquantised model
evaluate         sums and counts over a part of the data
gradient_noise   warns when gradients become noisier
hooks            the functions that a method can add to the loop
log              writes log.jsonl, and measures time
loop             the training loop
losses           the loss of each kind of task, computed in slices of tokens
rank_schedule    AdaLoRA and linear rank schedules
state            a model's trained state, saved and restored
teacher_outputs  compressed outputs of the unquantised model
ternary_hooks    ternary training as hooks
"""
