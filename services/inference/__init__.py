"""The inference service: answers with the base or any saved step of a finetune, named by a model string."""
