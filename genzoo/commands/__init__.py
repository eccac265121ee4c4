"""One module a command; each has ``run(arguments) -> exit code`` and imports heavy packages only inside it."""
