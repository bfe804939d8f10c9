"""Pure answers about the data of the core. They change nothing outside their arguments' own records."""
