"""Language models as GGUF files, for llama.cpp."""
