"""Options: definitions, types, cross-option validation, the command line and its @config.yml files."""
