"""What stands around the stages: command line, tracking, registry. Never imports torch."""
