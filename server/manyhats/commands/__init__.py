"""The commands of the command line that are not the server itself."""
