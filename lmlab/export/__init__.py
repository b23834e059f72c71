"""Export: merging, proofs, GGUF, Ollama, the hub, chat."""
