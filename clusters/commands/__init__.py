"""The commands of the command line, by what they are for. Each imports what it needs only when it runs."""
