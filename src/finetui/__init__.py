"""finetui: the fine-tuning workstation that lives in a terminal."""

__version__ = "0.1.0"
