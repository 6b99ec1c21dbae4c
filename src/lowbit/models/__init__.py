"""Model families, and how a model is loaded.

bert              BERT and MiniLM
dropout           dropout with fewer random draws on a CPU
family            model families, and the sites of a model
gpt2              GPT-2 and DialoGPT
llama             Llama, SmolLM, Qwen, Mistral
loading           finds a model by name and opens its checkpoint
packed_attention  attention over examples without padding
weights           reads weights one tensor at a time
"""
