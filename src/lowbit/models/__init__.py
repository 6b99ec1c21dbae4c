"""Model families, and how a model is found, opened and loaded.

bert              BERT and MiniLM
blocks            runs a model block after block
checkpoint        opens a model folder or GGUF file: configuration, headers, tokenizer
dropout           dropout with fewer random draws on a CPU
family            model families, and the sites of a model
find_model        finds a model by name, on this machine or on the hub
gguf_file         reads the header of a GGUF file
gguf_model        the configuration and tensor names of a GGUF file
gguf_tokenizer    the tokenizer that a GGUF file carries
gguf_types        GGUF's tensor types as packed matrices or numbers
gpt2              GPT-2 and DialoGPT
lean_blocks       norms and gated products that keep less for the backward pass
llama             Llama, SmolLM, Qwen, Mistral
loading           loads a whole model with its weights
packed_attention  attention over examples without padding
skeleton          the model without weights
weights           reads weights one tensor at a time
"""
