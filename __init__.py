"""The command line (the repository root, installed as `trapo_cli`)."""
