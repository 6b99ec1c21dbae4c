"""Model families, and how a model is loaded.

bert              BERT and MiniLM
dropout           dropout with cheap random numbers
family            what a model family is, and how sites are listed
gpt2              GPT-2 and DialoGPT
llama             Llama, SmolLM, Qwen, Mistral
loading           from a name to a model on disk
packed_attention  attention over examples without padding
weights           weights read one tensor at a time
"""
