"""The API: HTTP endpoints in the master's process. Commands, events, monitoring and the dashboard."""
