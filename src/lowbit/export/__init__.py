"""What leaves the lab: adapters in PEFT's format, decoded and merged models."""
