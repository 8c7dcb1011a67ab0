"""What is trained: the Mixture-of-Experts base, its LoRA adapter, losses and metrics."""
