"""One module a command: ``parser()`` and ``run(arguments) -> exit code``."""
