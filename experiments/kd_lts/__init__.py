"""KD-LTS: masks learned by distillation from dense teachers."""
