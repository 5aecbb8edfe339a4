"""Where user code runs: a confined child process for each language, from which every batch is forked."""
